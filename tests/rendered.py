"""What an engine makes of chunks."""

from __future__ import annotations

from engines.base import Audio, Chunk, ChunkList, Engine


def rendered(engine: Engine, *chunks: Chunk) -> list[Audio]:
    """The audio of chunks, in their order. Raises the error of a chunk that can't be rendered."""
    made: dict[int, Audio] = {}
    for result in engine.render(ChunkList(chunks)):
        if result is None:
            continue
        number, audio = result
        if not isinstance(audio, Audio):
            raise audio
        assert number not in made
        made[number] = audio
    assert sorted(made) == list(range(len(chunks)))
    return [made[number] for number in range(len(chunks))]
