#!/bin/sh
# What `make demo` does once everything is installed: a working folder, three jobs, one run, and what came of it.
#   sh examples/demo.sh VOICESPOOL FOLDER
set -eu
voicespool=$1
folder=$2
examples=$(dirname "$0")

"$voicespool" init "$folder" >/dev/null 2>&1
for job in hello ola broken; do
  cp "$examples/$job.yaml" "$folder/inbox/"
done

echo "Rendering hello.yaml, ola.yaml and broken.yaml (which is broken on purpose) in $folder/inbox:"
code=0
"$voicespool" --config "$folder/config.yaml" run --once || code=$?
if [ "$code" -gt 1 ]; then # 1 says that a job failed, and one should
  exit "$code"
fi

echo
"$voicespool" --config "$folder/config.yaml" status
