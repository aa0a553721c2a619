"""What HLS and DASH both say of a ladder: its tracks, their rates, what goes with what."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from codecaux.ladders.codecs import AudioCodec, VideoCodec
from codecaux.ladders.segments import Track, average_rate, peak_rate

__all__ = ["AudioRendition", "Presentation", "Variant", "VideoRendition"]

_SAME_RATE = Fraction(1, 100)


@dataclass(frozen=True, slots=True)
class VideoRendition:
    """One rung. ``folder`` is also its id; ``weights``: path of its weights file, if any."""

    folder: str
    codec: VideoCodec
    track: Track
    weights: str | None = None

    @property
    def fps(self) -> Fraction:
        """Pictures over time: the mean where the rate varies."""
        return self.track.num_frames / self.track.duration_seconds

    @property
    def highest_fps(self) -> Fraction:
        """The rate of the segment with the highest: the mean itself where that is no more than a
        hundredth above it, which timestamps rounded to milliseconds can be, too.
        """
        # The last may be one picture, whose time says little of a rate.
        whole = self.track.segments[:-1] or self.track.segments
        highest = max(Fraction(s.num_frames, s.duration) for s in whole)
        highest *= self.track.ticks_per_second
        return highest if highest > self.fps * (1 + _SAME_RATE) else self.fps


@dataclass(frozen=True, slots=True)
class AudioRendition:
    """One audio track. ``language``: BCP 47, "" where not known."""

    folder: str
    codec: AudioCodec
    track: Track
    name: str
    language: str = ""
    is_default: bool = False


@dataclass(frozen=True, slots=True)
class Variant:
    """A rung with the audio tracks (or none): rates are those of both together."""

    video: VideoRendition
    codecs: str
    audio_group: str | None
    peak_bits_per_second: int
    average_bits_per_second: int


@dataclass(frozen=True, slots=True)
class Presentation:
    """All of a ladder. ``videos`` rise in rate, those that are not H.265 come last; ``audios`` are
    of one codec; ``index_name``: the file that says which weights go with which rung.
    """

    videos: tuple[VideoRendition, ...]
    audios: tuple[AudioRendition, ...]
    index_name: str

    @property
    def target_seconds(self) -> int:
        """The target duration: no segment's, rounded to a whole number, is longer."""
        return max(1, math.floor(self.longest_seconds + Fraction(1, 2)))

    @property
    def longest_seconds(self) -> Fraction:
        """Of any segment of any track."""
        tracks = [video.track for video in self.videos] + [audio.track for audio in self.audios]
        return max(max(track.seconds) for track in tracks)

    @property
    def duration_seconds(self) -> Fraction:
        """Of the pictures."""
        return max(video.track.duration_seconds for video in self.videos)

    @property
    def audio_group(self) -> str | None:
        """The group that all audio tracks stand in, which are of one codec; None without any.

        With a group for each codec, all would have to offer the same tracks: RFC 8216, 4.3.4.1.1.
        """
        return f"audio-{self.audios[0].codec.codecs}" if self.audios else None

    def variants(self) -> tuple[Variant, ...]:
        """Every rung with the audio tracks, rungs in their order."""
        return tuple(self._variant(video) for video in self.videos)

    def _variant(self, video: VideoRendition) -> Variant:
        """Rates of a variant count its most expensive audio track: RFC 8216, 4.3.4.2."""
        target, audios = self.target_seconds, self.audios
        peak = max((peak_rate(audio.track, target) for audio in audios), default=0)
        average = max((average_rate(audio.track) for audio in audios), default=0)
        return Variant(
            video=video,
            codecs=",".join((video.codec.codecs, *sorted({a.codec.codecs for a in audios}))),
            audio_group=self.audio_group,
            peak_bits_per_second=peak_rate(video.track, target) + peak,
            average_bits_per_second=average_rate(video.track) + average,
        )
