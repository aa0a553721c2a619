"""Finished rungs -> a folder that any player plays, and ours with the right weights.

    rungs, sound ─ segments ─ measured, checked ─┬─> master.m3u8, */media.m3u8     HLS
                                                 ├─> manifest.mpd                  DASH
    weights ─────────────────────────────────────┴─> codecaux.json, weights/*      for our player

Nothing is coded again. The folder appears whole or not at all. With the same ffmpeg, equal input
gives equal bytes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from codecaux import __version__
from codecaux.atomic import atomic_folder
from codecaux.errors import InputError, UsageError
from codecaux.events import Events, Notice, Progress, StageDone, StageStarted
from codecaux.ffmpeg import Ffmpeg, find_ffmpeg
from codecaux.hevc import hash_stream
from codecaux.ladderindex import (
    INDEX_NAME,
    AudioEntry,
    LadderIndex,
    RungEntry,
    WeightsEntry,
    index_to_json,
)
from codecaux.ladders.codecs import audio_codec, video_codec
from codecaux.ladders.dash import MANIFEST_NAME, manifest
from codecaux.ladders.hls import MASTER_NAME, MEDIA_NAME, master_playlist, media_playlist
from codecaux.ladders.presentation import AudioRendition, Presentation, VideoRendition
from codecaux.ladders.rungs import (
    AudioTrack,
    CutRung,
    Rung,
    check_aligned,
    check_grid,
    check_weights,
)
from codecaux.ladders.segments import (
    MAX_DELAY_SECONDS,
    Track,
    average_rate,
    cut_audio,
    cut_video,
    peak_rate,
    read_track,
    start_seconds,
)
from codecaux.weightsfile import read_weights

__all__ = ["AudioTrack", "LadderFiles", "PackageSettings", "Rung", "package"]

_WEIGHTS_FOLDER = "weights"
_MAX_RUNGS = 64


@dataclass(frozen=True, slots=True)
class PackageSettings:
    """``segment_seconds``: what the rungs were coded for. ``hls``, ``dash``: at least one."""

    segment_seconds: Fraction = Fraction(4)
    hls: bool = True
    dash: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not (self.hls or self.dash):
            raise UsageError("expected HLS, DASH or both, got neither; choose one")


@dataclass(frozen=True, slots=True)
class LadderFiles:
    """What was written. ``index`` lists the rungs in their order, their rates and weights."""

    folder: Path
    index_path: Path
    master: Path | None
    manifest: Path | None
    index: LadderIndex


def package(
    rungs: Sequence[Rung],
    audio: Sequence[AudioTrack],
    output: Path,
    settings: PackageSettings | None = None,
    ffmpeg: Ffmpeg | None = None,
) -> Events[LadderFiles]:
    """Write ``rungs`` and ``audio`` (the first is the default) as a ladder into ``output``.

    Raises UsageError (no rung, an output that is not empty), InputError (streams that do not
    decode, or whose keyframes do not agree), the WeightsErrors (WeightsStreamMismatchError where
    weights belong to none of the rungs that they are given for), ToolErrors.
    """
    settings = settings or PackageSettings()
    if not 1 <= len(rungs) <= _MAX_RUNGS:
        raise UsageError(f"expected 1 to {_MAX_RUNGS} rungs, got {len(rungs)}")
    names = [track.name for track in audio]
    if len(set(names)) < len(names):
        raise UsageError(f"expected another name for every audio track, got {', '.join(names)}")
    _check_one_codec(audio)
    ffmpeg = ffmpeg or find_ffmpeg()
    started = time.monotonic()
    total = len(rungs) + len(audio)
    yield StageStarted("package", total, "tracks")
    with atomic_folder(output, overwrite=settings.overwrite) as folder:
        job = _Job(folder, settings, ffmpeg)
        videos: list[CutRung] = []
        for rung in rungs:
            videos.append(job.video(rung, len(videos)))
            yield Progress("package", len(videos), total, "tracks")
        check_aligned(videos)
        check_weights(videos)
        audios: list[AudioRendition] = []
        for track in audio:
            audios.append((yield from job.audio(track, len(audios), videos[0].track)))
            yield Progress("package", len(videos) + len(audios), total, "tracks")
        index = job.write(_ranked(videos), tuple(audios))
    if index.rungs[0].num_segments == 1:
        yield Notice("the title is no longer than one segment: no player can change rungs in it")
    yield StageDone("package", time.monotonic() - started)
    return LadderFiles(
        folder=output,
        index_path=output / INDEX_NAME,
        master=output / MASTER_NAME if settings.hls else None,
        manifest=output / MANIFEST_NAME if settings.dash else None,
        index=index,
    )


def _check_one_codec(audio: Sequence[AudioTrack]) -> None:
    """InputError where a player would meet tracks in a group that it may not be able to play."""
    codecs = dict.fromkeys(audio_codec(track.path, track.position).codecs for track in audio)
    if len(codecs) > 1:
        raise InputError(
            f"expected audio tracks of one codec, got {', '.join(codecs)}; convert them all to AAC"
        )


@dataclass(frozen=True, slots=True)
class _Job:
    """One ladder in the making, in the folder that will be renamed."""

    folder: Path
    settings: PackageSettings
    ffmpeg: Ffmpeg

    def video(self, rung: Rung, index: int) -> CutRung:
        """Cut one rung; make sure that nothing of it was changed."""
        codec = video_codec(rung.stream)
        if codec.name != "hevc" and rung.weights is not None:
            raise UsageError(
                f"expected weights with H.265 rungs only, got {rung.weights} for {rung.stream}"
            )
        folder = self.folder / f"track-{index}"
        folder.mkdir()
        cut_video(rung.stream, folder, start_seconds(rung.stream), self.ffmpeg)
        joined = self.folder / "joined.mp4"
        track = read_track(folder, "video", joined)
        check_grid(rung.stream, track, self.settings.segment_seconds)
        video = CutRung(rung, folder, codec, track)
        if codec.name == "hevc":
            found = hash_stream(joined)
            if found != hash_stream(rung.stream):
                raise InputError(
                    f"expected segments that hold {rung.stream} unchanged, got other coded "
                    "pictures; encode the rung again"
                )
            video = replace(video, hash=found)
        joined.unlink()
        return self._with_weights(video)

    def _with_weights(self, video: CutRung) -> CutRung:
        source = video.rung.weights
        if source is None:
            return video
        weights = read_weights(source)
        data = source.read_bytes()
        path = f"{_WEIGHTS_FOLDER}/{hashlib.sha256(data).hexdigest()[:16]}.weights"
        (self.folder / _WEIGHTS_FOLDER).mkdir(exist_ok=True)
        (self.folder / path).write_bytes(data)
        return replace(video, weights=weights, weights_path=path)

    def audio(self, source: AudioTrack, index: int, pictures: Track) -> Events[AudioRendition]:
        """Cut one audio track as near to the borders of ``pictures`` as its frames allow."""
        codec = audio_codec(source.path, source.position)
        folder = self.folder / f"audio-{index + 1}"
        folder.mkdir()
        shift = start_seconds(source.path)
        left_out = cut_audio(source.path, source.position, folder, pictures, shift, self.ffmpeg)
        # An encoder's last frame is not worth a word.
        if left_out > MAX_DELAY_SECONDS:
            yield Notice(
                f"audio track {index + 1} goes on for {float(left_out):.2f} s after the last "
                "picture: that is left out"
            )
        joined = self.folder / "joined.mp4"
        track = read_track(folder, "audio", joined)
        joined.unlink()
        return AudioRendition(
            folder.name, codec, track, source.name, source.language, is_default=index == 0
        )

    def write(self, videos: Sequence[CutRung], audios: tuple[AudioRendition, ...]) -> LadderIndex:
        """Final names, manifests and index, out of what was measured."""
        named = _renamed(videos)
        renditions = tuple(
            VideoRendition(video.folder.name, video.codec, video.track, video.weights_path)
            for video in named
        )
        presentation = Presentation(renditions, audios, INDEX_NAME)
        index = _index(named, presentation, self.folder)
        (self.folder / INDEX_NAME).write_bytes(index_to_json(index))
        if self.settings.hls:
            self._write_text(MASTER_NAME, master_playlist(presentation))
            tracks = {video.folder: video.track for video in renditions}
            tracks |= {audio.folder: audio.track for audio in audios}
            for folder, track in tracks.items():
                text = media_playlist(track, presentation.target_seconds)
                self._write_text(f"{folder}/{MEDIA_NAME}", text)
        if self.settings.dash:
            self._write_text(MANIFEST_NAME, manifest(presentation))
        return index

    def _write_text(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8", newline="\n")


def _ranked(videos: Sequence[CutRung]) -> list[CutRung]:
    """Rising in rate; what is not H.265 last."""
    return sorted(
        videos, key=lambda v: (v.codec.name != "hevc", average_rate(v.track), v.codec.height)
    )


def _renamed(videos: Sequence[CutRung]) -> list[CutRung]:
    """Folders called video-1, video-2, ... in order, of H.264 h264-1."""
    named: list[CutRung] = []
    for video in videos:
        kind = "video" if video.codec.name == "hevc" else video.codec.name
        number = 1 + sum(other.codec.name == video.codec.name for other in named)
        folder = video.folder.rename(video.folder.with_name(f"{kind}-{number}"))
        named.append(replace(video, folder=folder))
    return named


# ------------------------------------------------------------------------------------------- index


def _index(videos: Sequence[CutRung], presentation: Presentation, folder: Path) -> LadderIndex:
    target = presentation.target_seconds
    rungs = tuple(_rung_entry(video, target) for video in videos)
    paths = dict.fromkeys(rung.weights for rung in rungs if rung.weights is not None)
    return LadderIndex(
        duration_seconds=float(presentation.duration_seconds),
        rungs=rungs,
        audio=tuple(_audio_entry(audio, target) for audio in presentation.audios),
        weights=tuple(_weights_entry(path, rungs, folder) for path in paths),
        created_by=f"codecaux {__version__}",
    )


def _rung_entry(video: CutRung, target: int) -> RungEntry:
    codec, metadata = video.codec, video.weights.metadata if video.weights else None
    return RungEntry(
        folder=video.folder.name,
        num_segments=len(video.track.segments),
        codecs=codec.codecs,
        width=codec.width,
        height=codec.height,
        enhanced_width=metadata.source_width if metadata else codec.width,
        enhanced_height=metadata.source_height if metadata else codec.height,
        num_frames=video.track.num_frames,
        peak_bits_per_second=peak_rate(video.track, target),
        average_bits_per_second=average_rate(video.track),
        segment_bytes=video.track.segment_bytes,
        stream=video.hash,
        weights=video.weights_path,
    )


def _audio_entry(audio: AudioRendition, target: int) -> AudioEntry:
    return AudioEntry(
        folder=audio.folder,
        num_segments=len(audio.track.segments),
        codecs=audio.codec.codecs,
        name=audio.name,
        language=audio.language,
        channels=audio.codec.channels,
        is_default=audio.is_default,
        peak_bits_per_second=peak_rate(audio.track, target),
        average_bits_per_second=average_rate(audio.track),
        segment_bytes=audio.track.segment_bytes,
    )


def _weights_entry(path: str, rungs: Sequence[RungEntry], folder: Path) -> WeightsEntry:
    data = (folder / path).read_bytes()
    users = tuple(rung.folder for rung in rungs if rung.weights == path)
    return WeightsEntry(path, len(data), hashlib.sha256(data).hexdigest(), users)
