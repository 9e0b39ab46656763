# voicespool in a container.
#
#   docker build -t voicespool .                                  small, engines on the CPU
#   docker build -t voicespool:cuda --build-arg VARIANT=cuda .    with the libraries of the neural engines, for NVIDIA cards
#   docker run -v "$PWD/spool:/spool" voicespool
#
# deploy/compose.yaml has both with all their settings.

ARG VARIANT=cpu
ARG PYTHON=3.11-slim-bookworm

# --- what each variant adds ----------------------------------------------------------------------------------------
FROM python:${PYTHON} AS cpu
ENV VOICESPOOL_EXTRAS=""

# torch's wheel brings CUDA's libraries; the host gives the driver through NVIDIA's container toolkit.
FROM python:${PYTHON} AS cuda
ENV VOICESPOOL_EXTRAS="[xtts,f5]" \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# --- build: a virtual environment, dependencies first so that a change of code does not fetch them again -----------
FROM ${VARIANT} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/voicespool
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir watcher jobs engines files \
    && /opt/voicespool/bin/pip install --constraint constraints.txt ".${VOICESPOOL_EXTRAS}"
COPY files files
COPY engines engines
COPY jobs jobs
COPY watcher watcher
RUN /opt/voicespool/bin/pip install --no-deps --force-reinstall .

# --- run -----------------------------------------------------------------------------------------------------------
FROM ${VARIANT}
RUN groupadd --gid 10001 voicespool \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /spool --shell /usr/sbin/nologin voicespool \
    && install --directory --owner voicespool --group voicespool /spool
COPY --from=build /opt/voicespool /opt/voicespool
COPY deploy/healthy.py /opt/voicespool/healthy.py
ENV PATH=/opt/voicespool/bin:$PATH PYTHONDONTWRITEBYTECODE=1 VOICESPOOL_CACHE=/spool/.cache/voicespool
USER voicespool
# inbox, outbox, voices and models lie here, and config.yaml where one is wanted.
WORKDIR /spool
VOLUME /spool
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 \
    CMD voicespool status --json | python /opt/voicespool/healthy.py
ENTRYPOINT ["voicespool"]
CMD ["run"]
