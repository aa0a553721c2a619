"""HLS and DASH texts to the letter, from numbers alone."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

import m3u8
import pytest

from codecaux.errors import UsageError
from codecaux.ladders.codecs import AudioCodec, VideoCodec
from codecaux.ladders.dash import manifest
from codecaux.ladders.hls import master_playlist, media_playlist
from codecaux.ladders.presentation import AudioRendition, Presentation, VideoRendition
from codecaux.ladders.segments import Segment, Track


def pictures(*sizes: int) -> Track:
    """Segments of 96 frames at 24000/1001 fps, in ticks of 1/24000 s."""
    duration = 96 * 1001
    return Track(
        24000, tuple(Segment(n * duration, duration, 96, size) for n, size in enumerate(sizes))
    )


def sound(size: int) -> Track:
    lengths = (192_512, 191_488)
    return Track(48000, tuple(Segment(n * lengths[0], d, 188, size) for n, d in enumerate(lengths)))


HDR = VideoCodec("hevc", "hvc1.2.4.L120.90", "PQ", 1920, 1080, 10)
SDR = VideoCodec("h264", "avc1.640028", "SDR", 1920, 1080)
STEREO, SURROUND = AudioCodec("mp4a.40.2", 2, 48000), AudioCodec("mp4a.40.2", 6, 48000)
WHOLE = Presentation(
    videos=(
        VideoRendition("video-1", HDR, pictures(500_000, 250_000), "weights/ab.weights"),
        VideoRendition("h264-1", SDR, pictures(1_000_000, 900_000)),
    ),
    audios=(
        AudioRendition("audio-1", STEREO, sound(64_000), "English", "en", is_default=True),
        AudioRendition("audio-2", SURROUND, sound(190_000), "Français <5.1> & mehr", "fr"),
    ),
    index_name="codecaux.json",
)

MASTER = """\
#EXTM3U
#EXT-X-VERSION:7
#EXT-X-INDEPENDENT-SEGMENTS
#EXT-X-SESSION-DATA:DATA-ID="codecaux.ladder",URI="codecaux.json"
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio-mp4a.40.2",NAME="English",LANGUAGE="en",DEFAULT=YES,\
AUTOSELECT=YES,CHANNELS="2",URI="audio-1/media.m3u8"
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio-mp4a.40.2",NAME="Français <5.1> & mehr",LANGUAGE="fr",\
DEFAULT=NO,AUTOSELECT=YES,CHANNELS="6",URI="audio-2/media.m3u8"
#EXT-X-STREAM-INF:BANDWIDTH=1380018,AVERAGE-BANDWIDTH=1129251,CODECS="hvc1.2.4.L120.90,mp4a.40.2",\
RESOLUTION=1920x1080,FRAME-RATE=23.976,VIDEO-RANGE=PQ,AUDIO="audio-mp4a.40.2"
video-1/media.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=2379019,AVERAGE-BANDWIDTH=2278102,CODECS="avc1.640028,mp4a.40.2",\
RESOLUTION=1920x1080,FRAME-RATE=23.976,VIDEO-RANGE=SDR,AUDIO="audio-mp4a.40.2"
h264-1/media.m3u8
"""


def test_master_playlist() -> None:
    assert master_playlist(WHOLE) == MASTER
    parsed = m3u8.loads(MASTER)
    assert [p.stream_info.video_range for p in parsed.playlists] == ["PQ", "SDR"]


def test_without_sound() -> None:
    text = master_playlist(replace(WHOLE, audios=()))
    assert "AUDIO" not in text
    assert 'CODECS="avc1.640028",' in text


def test_media_playlist() -> None:
    assert media_playlist(pictures(1, 2), 4) == (
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:4\n#EXT-X-PLAYLIST-TYPE:VOD\n"
        '#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-MAP:URI="init.mp4"\n'
        "#EXTINF:4.004000,\nseg-00001.m4s\n#EXTINF:4.004000,\nseg-00002.m4s\n#EXT-X-ENDLIST\n"
    )


def test_target_duration_is_the_rounded_longest() -> None:
    assert WHOLE.target_seconds == 4
    half = Track(2, (Segment(0, 9, 9, 1),))
    short = Track(10, (Segment(0, 3, 3, 1),))
    video = WHOLE.videos[0]
    for track, target in ((half, 5), (short, 1)):
        assert Presentation((replace(video, track=track),), (), "x").target_seconds == target


def test_dash_manifest() -> None:
    text = manifest(WHOLE)
    assert manifest(WHOLE) == text
    # Both sets of pictures name the index, only the rung with weights names them.
    assert text.count('schemeIdUri="urn:codecaux:ladder:1" value="codecaux.json"') == 2
    assert text.count('schemeIdUri="urn:codecaux:weights:1" value="weights/ab.weights"') == 1
    assert "EssentialProperty" not in text
    assert 'TransferCharacteristics" value="16"' in text
    assert 'mediaPresentationDuration="PT8.008S"' in text
    assert 'maxSegmentDuration="PT4.011S"' in text
    assert 'frameRate="24000/1001"' in text
    assert '<S t="0" d="96096" r="1" />' in text
    assert '<S t="0" d="192512" />' in text
    assert '<S t="192512" d="191488" />' in text
    assert "<Label>Français &lt;5.1&gt; &amp; mehr</Label>" in text


@pytest.mark.parametrize(
    ("channels", "value"), [(1, "1"), (2, "2"), (6, "6"), (7, "11"), (8, "12"), (9, None)]
)
def test_channels_in_dash_are_an_arrangement(channels: int, value: str | None) -> None:
    codec = replace(SURROUND, channels=channels)
    text = manifest(replace(WHOLE, audios=(replace(WHOLE.audios[1], codec=codec),)))
    found = re.findall(r"<AudioChannelConfiguration ([^>]*) />", text)
    scheme = "urn:mpeg:mpegB:cicp:ChannelConfiguration"
    assert found == ([f'schemeIdUri="{scheme}" value="{value}"'] if value else [])


@pytest.mark.parametrize("name", ['with "quotes"', "a\nline", "", "bell\x07"])
def test_names_that_cannot_be_written(name: str) -> None:
    audio = replace(WHOLE.audios[0], name=name)
    with pytest.raises(UsageError):
        master_playlist(replace(WHOLE, audios=(audio,)))


def test_mean_rates_are_exact() -> None:
    video = WHOLE.videos[0]
    assert video.fps == Fraction(24000, 1001)
    (first, *_) = WHOLE.variants()
    # 750 000 bytes in 8.008 s, and of the dearer sound 380 000 in 8 s; each rounded up.
    assert first.average_bits_per_second == -(-6_000_000 * 1000 // 8008) + 380_000
