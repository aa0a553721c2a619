"""The DASH manifest (ISO/IEC 23009-1, static, isoff-live profile) as text. Pure, byte-reproducible.

The weights stand in SupplementalProperty elements, which a player that does not know them passes
over; EssentialProperty would make it drop the rung.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import groupby
from xml.etree import ElementTree as Xml

from codecaux.errors import UsageError
from codecaux.ladderindex import INDEX_SCHEME, INIT_NAME
from codecaux.ladders.presentation import AudioRendition, Presentation, VideoRendition
from codecaux.ladders.segments import Track, peak_rate

__all__ = ["MANIFEST_NAME", "WEIGHTS_SCHEME", "manifest"]

MANIFEST_NAME = "manifest.mpd"
WEIGHTS_SCHEME = "urn:codecaux:weights:1"
_PROFILE = "urn:mpeg:dash:profile:isoff-live:2011"
_CHANNELS_SCHEME = "urn:mpeg:mpegB:cicp:ChannelConfiguration"
# Channels -> ISO/IEC 23091-3's number of their usual arrangement: 6.1, and 7.1 with back channels.
_CONFIGURATIONS = {count: count for count in range(1, 7)} | {7: 11, 8: 12}
_TRANSFER_SCHEME = "urn:mpeg:mpegB:cicp:TransferCharacteristics"
_TRANSFERS = {"PQ": "16", "HLG": "18"}


def manifest(presentation: Presentation) -> str:
    """The MPD: one period, a set of rungs for each codec, a set for each audio track.

    UsageError where a name holds what XML cannot.
    """
    target = presentation.target_seconds
    root = Xml.Element(
        "MPD",
        {
            "xmlns": "urn:mpeg:dash:schema:mpd:2011",
            "profiles": _PROFILE,
            "type": "static",
            "mediaPresentationDuration": _duration(presentation.duration_seconds),
            "maxSegmentDuration": _duration(presentation.longest_seconds),
            "minBufferTime": _duration(Fraction(target)),
        },
    )
    period = Xml.SubElement(root, "Period", {"id": "1", "start": "PT0S"})
    for name in dict.fromkeys(video.codec.name for video in presentation.videos):
        videos = [video for video in presentation.videos if video.codec.name == name]
        _video_set(period, str(len(period) + 1), videos, presentation)
    for audio in presentation.audios:
        _audio_set(period, str(len(period) + 1), audio, target)
    Xml.indent(root, " ")
    text = Xml.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _video_set(
    period: Xml.Element,
    identity: str,
    videos: Sequence[VideoRendition],
    presentation: Presentation,
) -> None:
    values = {
        "id": identity,
        "contentType": "video",
        "mimeType": "video/mp4",
        "segmentAlignment": "true",
        "startWithSAP": "1",
        "maxWidth": str(max(video.codec.width for video in videos)),
        "maxHeight": str(max(video.codec.height for video in videos)),
    }
    parent = Xml.SubElement(period, "AdaptationSet", values)
    _supplemental(parent, INDEX_SCHEME, presentation.index_name)
    for video in videos:
        _representation(parent, video, presentation.target_seconds)


def _representation(parent: Xml.Element, video: VideoRendition, target: int) -> None:
    codec = video.codec
    values = {
        "id": video.folder,
        "codecs": codec.codecs,
        "bandwidth": str(peak_rate(video.track, target)),
        "width": str(codec.width),
        "height": str(codec.height),
        "frameRate": _ratio(video.fps),
    }
    element = Xml.SubElement(parent, "Representation", values)
    if codec.range in _TRANSFERS:
        _supplemental(element, _TRANSFER_SCHEME, _TRANSFERS[codec.range])
    if video.weights is not None:
        _supplemental(element, WEIGHTS_SCHEME, video.weights)
    _template(element, video.folder, video.track)


def _audio_set(period: Xml.Element, identity: str, audio: AudioRendition, target: int) -> None:
    values = {"id": identity, "contentType": "audio", "mimeType": "audio/mp4"}
    if audio.language:
        values["lang"] = _checked(audio.language)
    parent = Xml.SubElement(
        period, "AdaptationSet", values | {"segmentAlignment": "true", "startWithSAP": "1"}
    )
    Xml.SubElement(parent, "Label").text = _checked(audio.name)
    role = "main" if audio.is_default else "alternate"
    Xml.SubElement(parent, "Role", {"schemeIdUri": "urn:mpeg:dash:role:2011", "value": role})
    codec = audio.codec
    values = {
        "id": audio.folder,
        "codecs": codec.codecs,
        "bandwidth": str(peak_rate(audio.track, target)),
        "audioSamplingRate": str(codec.sample_rate),
    }
    element = Xml.SubElement(parent, "Representation", values)
    if codec.channels in _CONFIGURATIONS:
        value = str(_CONFIGURATIONS[codec.channels])
        channels = {"schemeIdUri": _CHANNELS_SCHEME, "value": value}
        Xml.SubElement(element, "AudioChannelConfiguration", channels)
    _template(element, audio.folder, audio.track)


def _supplemental(parent: Xml.Element, scheme: str, value: str) -> None:
    Xml.SubElement(parent, "SupplementalProperty", {"schemeIdUri": scheme, "value": value})


def _template(parent: Xml.Element, folder: str, track: Track) -> None:
    template = Xml.SubElement(
        parent,
        "SegmentTemplate",
        {
            "timescale": str(track.ticks_per_second),
            "startNumber": "1",
            "initialization": f"{folder}/{INIT_NAME}",
            "media": f"{folder}/seg-$Number%05d$.m4s",
        },
    )
    timeline = Xml.SubElement(template, "SegmentTimeline")
    for entry in _runs(track):
        Xml.SubElement(timeline, "S", entry)


def _runs(track: Track) -> Iterator[dict[str, str]]:
    """Segments of equal duration that follow one another as one S element."""
    start = track.segments[0].start
    for duration, run in groupby(segment.duration for segment in track.segments):
        repeats = len(list(run)) - 1
        entry = {"t": str(start), "d": str(duration)}
        yield entry | ({"r": str(repeats)} if repeats else {})
        start += duration * (repeats + 1)


def _duration(seconds: Fraction) -> str:
    """xs:duration with milliseconds, rounded up: no segment lies beyond the end."""
    millis = -(-seconds.numerator * 1000 // seconds.denominator)
    return f"PT{millis // 1000}.{millis % 1000:03d}S"


def _ratio(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    return f"{value.numerator}/{value.denominator}"


def _checked(text: str) -> str:
    if not text.isprintable():
        raise UsageError(f"expected a name of printable characters for a manifest, got {text!r}")
    return text
