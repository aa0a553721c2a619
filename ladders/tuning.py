"""The tuning of a title's streams: chosen once, for all its probes and for what is made in the end.

An encode on its own chooses at its own CRF and scale. Points of one curve are to differ by nothing
but these, so that here it is one CRF in the middle, at the settings' scale, for all.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

from codecaux import __version__
from codecaux.architecture import net_config
from codecaux.bases import default_base_id
from codecaux.encoder.stream import StreamSettings
from codecaux.encoder.tuning import Viewer, choose_tuning, named_tuning
from codecaux.events import Events
from codecaux.ladders.cache import locked
from codecaux.ladders.probes import Prober, stream_identity
from codecaux.ladders.titles import sample_source, whole_source
from codecaux.scores import ScoreTools
from codecaux.video import VideoFormat

__all__ = ["tuned"]

_KIND = "tuning"
_CRF = 26.0


def tuned(prober: Prober) -> Events[Prober]:
    """``prober`` with a tuning for "auto": from its cache, else chosen on the title's samples."""
    stream = replace(prober.settings.stream, crf=_CRF)
    title = prober.title
    named = named_tuning(stream, VideoFormat(title.width, title.height))
    if named is not None:
        return _with_tuning(prober, named)
    config = net_config(prober.settings.net, stream.scale)
    base_id = prober.settings.base or default_base_id(config)
    viewer = Viewer(config, base_id, prober.device)
    identity = _identity(prober, stream, viewer)
    found = prober.cache.get(_KIND, identity)
    if found is not None:
        return _with_tuning(prober, str(found.value["tuning"]))
    folder = prober.cache.work_folder(_KIND, identity)
    with locked(folder):
        folder.mkdir(exist_ok=True)
        source = yield from sample_source(title, prober.cache, prober.ffmpeg)
        if source is None:
            source = yield from whole_source(title, folder, prober.ffmpeg)
        tools = ScoreTools(prober.ffmpeg)
        name = yield from choose_tuning(source, stream, viewer, tools, folder / "tries")
        label = f"{title.path.name}, {name}"
        prober.cache.put(_KIND, identity, {"tuning": name}, label=label)
        shutil.rmtree(folder, ignore_errors=True)
    return _with_tuning(prober, name)


def _with_tuning(prober: Prober, name: str) -> Prober:
    stream = replace(prober.settings.stream, tuning=name)
    return replace(prober, settings=replace(prober.settings, stream=stream))


def _identity(prober: Prober, stream: StreamSettings, viewer: Viewer) -> dict[str, Any]:
    return {
        "title": prober.title.identity(),
        "stream": stream_identity(stream),
        "net": prober.settings.net,
        "base": viewer.base_id,
        "dtype": str(viewer.device.compute_dtype),
        "codecaux": __version__,
        "ffmpeg": prober.ffmpeg.version,
    }
