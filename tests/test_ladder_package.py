"""Rungs into a ladder: segments, alignment, what is counted, HLS and DASH that others can read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import m3u8
import pytest
from av.video.frame import PictureType
from mpegdash.parser import MPEGDASHParser

from codecaux.decoder.parts import join_parts
from codecaux.encoder.prepare import SourceOptions, prepare
from codecaux.encoder.stream import StreamSettings, encode_stream
from codecaux.errors import InputError, UsageError, WeightsStreamMismatchError
from codecaux.events import Notice, drain
from codecaux.ffmpeg import Ffmpeg
from codecaux.frames import read_frames
from codecaux.hevc import hash_stream, nal_type, split_nal_units
from codecaux.ladderindex import INDEX_NAME, read_index
from codecaux.ladders.codecs import video_codec
from codecaux.ladders.fallback import FallbackSettings, encode_audio, encode_fallback
from codecaux.ladders.gops import rung_x265_params, segment_frames
from codecaux.ladders.package import PackageSettings, package
from codecaux.ladders.rungs import AudioTrack, Rung
from codecaux.ladders.segments import Segment, Track, average_rate, peak_rate

SECOND = PackageSettings(Fraction(1))


def parts_of(folder: Path) -> list[Path]:
    return [folder / "init.mp4", *sorted(folder.glob("seg-*.m4s"))]


def joined(folder: Path, target: Path) -> Path:
    join_parts(parts_of(folder), target)
    return target


def packets(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(container.streams[0]) if packet.size]


# --------------------------------------------------------------------------------------- segments


def test_every_rung_has_its_keyframes_at_the_same_times(ladder_parts: Any) -> None:
    names = ("low", "middle", "high", "fallback")
    times = []
    for name in names:
        found = packets(getattr(ladder_parts, name))
        times.append([p.pts * p.time_base for p in found if p.is_keyframe])
    assert times[0] == [0, 1, 2, 3]
    assert times == [times[0]] * 4


def test_a_cut_inside_a_segment_makes_no_keyframe_but_an_intra_picture(ladder_parts: Any) -> None:
    with av.open(str(ladder_parts.high)) as container:
        kinds = [PictureType(frame.pict_type) for frame in container.decode(video=0)]
    intra = [index for index, kind in enumerate(kinds) if kind == PictureType.I]
    assert intra == [0, 25, 35, 50, 75]


def test_every_segment_decodes_alone_from_an_idr(ladder: Path, tmp_path: Path) -> None:
    for name, idr in (("video-1", (19, 20)), ("video-3", (19, 20)), ("h264-1", (5,))):
        whole = list(read_frames(joined(ladder / name, tmp_path / "whole.mp4")))
        init, *segments = parts_of(ladder / name)
        first = 0
        for segment in segments:
            join_parts((init, segment), tmp_path / "alone.mp4")
            units = split_nal_units(bytes(packets(tmp_path / "alone.mp4")[0]), 4)
            kinds = [nal_type(u) if name.startswith("v") else u[0] & 31 for u in units]
            assert set(kinds) & set(idr)
            frames = list(read_frames(tmp_path / "alone.mp4"))
            for got, expected in zip(frames, whole[first:], strict=False):
                assert (got.y == expected.y).all()
            first += len(frames)
        assert first == len(whole) == 85


def test_the_coded_pictures_are_the_rungs_own(
    ladder: Path, ladder_parts: Any, tmp_path: Path
) -> None:
    for folder, source in (("video-1", "low"), ("video-2", "middle"), ("video-3", "high")):
        track = joined(ladder / folder, tmp_path / "joined.mp4")
        assert hash_stream(track) == hash_stream(getattr(ladder_parts, source))
        assert [p.pts * p.time_base for p in packets(track)] == [
            p.pts * p.time_base for p in packets(getattr(ladder_parts, source))
        ]


def test_sample_entry_is_hvc1_and_segments_are_typed(ladder: Path) -> None:
    assert b"hvc1" in (ladder / "video-1" / "init.mp4").read_bytes()
    assert b"avc1" in (ladder / "h264-1" / "init.mp4").read_bytes()
    for path in ladder.glob("*/seg-*.m4s"):
        assert path.read_bytes()[4:8] == b"styp"


def test_audio_borders_are_within_a_frame_of_the_pictures(ladder: Path, tmp_path: Path) -> None:
    playlist = m3u8.load(str(ladder / "audio-1" / "media.m3u8"))
    ends = [sum(s.duration for s in playlist.segments[: n + 1]) for n in range(3)]
    assert len(playlist.segments) == 4
    for number, end in enumerate(ends, start=1):
        assert abs(end - number) <= 1024 / 48000 + 1e-6
    track = joined(ladder / "audio-1", tmp_path / "sound.mp4")
    # The encoder's delay is kept, and signalled: sound begins at 0.
    assert -1024 <= packets(track)[0].pts < -960


# ------------------------------------------------------------------------------------- manifests


def test_hls_as_another_parser_reads_it(ladder: Path, ladder_parts: Any) -> None:
    master = m3u8.load(str(ladder / "master.m3u8"))
    assert master.is_variant
    assert master.is_independent_segments
    assert [(d.data_id, d.uri) for d in master.session_data] == [("codecaux.ladder", INDEX_NAME)]
    assert [p.uri for p in master.playlists] == [
        "video-1/media.m3u8",
        "video-2/media.m3u8",
        "video-3/media.m3u8",
        "h264-1/media.m3u8",
    ]
    rates = [p.stream_info.bandwidth for p in master.playlists]
    assert rates[:3] == sorted(rates[:3])
    sources = (ladder_parts.low, ladder_parts.middle, ladder_parts.high, ladder_parts.fallback)
    for playlist, source in zip(master.playlists, sources, strict=True):
        info = playlist.stream_info
        codec = video_codec(source)
        assert info.codecs == f"{codec.codecs},mp4a.40.2"
        assert info.resolution == (codec.width, codec.height)
        assert info.frame_rate == 25.0
        assert info.video_range == "SDR"
        assert info.audio == "audio-mp4a.40.2"
        assert 0 < info.average_bandwidth <= info.bandwidth
    (sound,) = master.media
    assert (sound.type, sound.name, sound.language) == ("AUDIO", "Sine", "en")
    assert (sound.default, sound.autoselect, sound.channels) == ("YES", "YES", "1")
    for name in ("video-1", "video-2", "video-3", "h264-1", "audio-1"):
        media = m3u8.load(str(ladder / name / "media.m3u8"))
        assert media.playlist_type == "vod"
        assert media.is_endlist
        assert media.is_independent_segments
        assert media.target_duration == 1
        assert media.segment_map[0].uri == "init.mp4"
        assert [s.uri for s in media.segments] == [p.name for p in parts_of(ladder / name)[1:]]
        assert sum(s.duration for s in media.segments) == pytest.approx(3.4, abs=0.03)


def test_rates_are_those_of_the_files(ladder: Path) -> None:
    """BANDWIDTH by hand: the worst second of pictures plus the worst second of sound."""
    master = m3u8.load(str(ladder / "master.m3u8"))

    def peak(name: str) -> float:
        media = m3u8.load(str(ladder / name / "media.m3u8"))
        sizes = [(ladder / name / s.uri).stat().st_size for s in media.segments]
        runs = [
            8 * sum(sizes[a:b]) / sum(s.duration for s in media.segments[a:b])
            for a in range(4)
            for b in range(a + 1, 5)
            if 0.5 <= sum(s.duration for s in media.segments[a:b]) <= 1.5
        ]
        return max(runs)

    for playlist in master.playlists:
        name = playlist.uri.split("/")[0]
        assert playlist.stream_info.bandwidth == pytest.approx(peak(name) + peak("audio-1"), abs=3)


def test_dash_as_another_parser_reads_it(ladder: Path, ladder_parts: Any) -> None:
    manifest = MPEGDASHParser.parse(str(ladder / "manifest.mpd"))
    assert manifest.type == "static"
    assert manifest.media_presentation_duration == "PT3.400S"
    (period,) = manifest.periods
    h265, h264, sound = period.adaptation_sets
    assert [r.id for r in h265.representations] == ["video-1", "video-2", "video-3"]
    assert [r.id for r in h264.representations] == ["h264-1"]
    assert (sound.lang, sound.content_type) == ("en", "audio")
    weights = "weights/" + hashlib.sha256(ladder_parts.weights.read_bytes()).hexdigest()[:16]
    for kept in h265.representations[:2]:
        (signal,) = kept.supplemental_properties
        assert signal.scheme_id_uri == "urn:codecaux:weights:1"
        assert signal.value == weights + ".weights"
    assert h265.supplemental_properties[0].value == INDEX_NAME
    text = (ladder / "manifest.mpd").read_text(encoding="utf-8")
    assert "EssentialProperty" not in text
    for group in (h265, h264, sound):
        for representation in group.representations:
            (template,) = representation.segment_templates
            seconds = 0
            count = 0
            for entry in template.segment_timelines[0].Ss:
                seconds += entry.d * (1 + (entry.r or 0))
                count += 1 + (entry.r or 0)
            assert seconds / template.timescale == pytest.approx(3.4, abs=0.03)
            assert template.initialization == f"{representation.id}/init.mp4"
            files = sorted((ladder / representation.id).glob("seg-*"))
            for number, path in enumerate(files, start=1):
                name = template.media.replace("$Number%05d$", f"{number:05d}")
                assert ladder / name == path
            assert len(files) == count
    assert h265.representations[2].codecs == video_codec(ladder_parts.high).codecs


def test_the_index_counts_everything(ladder: Path, ladder_parts: Any) -> None:
    index = read_index(ladder / INDEX_NAME)
    assert [rung.folder for rung in index.rungs] == ["video-1", "video-2", "video-3", "h264-1"]
    for rung in index.rungs:
        files = parts_of(ladder / rung.folder)[1:]
        assert rung.segment_bytes == sum(path.stat().st_size for path in files)
        assert rung.num_segments == len(files) == 4
        assert rung.average_bits_per_second == pytest.approx(rung.segment_bytes * 8 / 3.4, abs=1)
    low, middle, high, fallback = index.rungs
    assert (low.width, low.height, low.enhanced_width, low.enhanced_height) == (64, 36, 128, 72)
    assert (high.width, high.enhanced_width, high.weights) == (128, 128, None)
    assert fallback.stream is None
    assert low.stream == hash_stream(ladder_parts.low)
    # One file, once, though two rungs use it.
    (weights,) = index.weights
    assert weights.rungs == ("video-1", "video-2")
    assert weights.path == low.weights == middle.weights
    assert (ladder / weights.path).read_bytes() == ladder_parts.weights.read_bytes()
    assert weights.bytes == ladder_parts.weights.stat().st_size
    assert len(list((ladder / "weights").iterdir())) == 1


def test_packaging_twice_gives_the_same_bytes(
    ladder: Path, ladder_parts: Any, tmp_path: Path
) -> None:
    rungs = [
        Rung(ladder_parts.low, ladder_parts.weights),
        Rung(ladder_parts.middle, ladder_parts.weights),
        Rung(ladder_parts.high),
        Rung(ladder_parts.fallback),
    ]
    # Another order, and a folder with a % in its name.
    target = tmp_path / "a %05d ladder"
    drain(package(rungs, [AudioTrack(ladder_parts.low, 0, "Sine", "en")], target, SECOND))
    names = sorted(path.relative_to(ladder) for path in ladder.rglob("*"))
    assert names == sorted(path.relative_to(target) for path in target.rglob("*"))
    for name in names:
        if (ladder / name).is_file():
            assert (ladder / name).read_bytes() == (target / name).read_bytes(), name


def test_one_kind_of_manifest_only(ladder_parts: Any, tmp_path: Path) -> None:
    only = replace(SECOND, hls=False)
    files = drain(package([Rung(ladder_parts.high)], [], tmp_path / "dash", only))
    assert files.master is None
    assert files.manifest == tmp_path / "dash" / "manifest.mpd"
    assert not list((tmp_path / "dash").rglob("*.m3u8"))
    with pytest.raises(UsageError, match="neither"):
        replace(only, dash=False)


# --------------------------------------------------------------------------------------- refusals


def make_rung(
    source: Path, folder: Path, ffmpeg: Ffmpeg, params: tuple[tuple[str, str], ...]
) -> Path:
    prepared = drain(prepare(source, SourceOptions(), folder / "work"))
    settings = StreamSettings(40, "ultrafast", x265_params=params)
    return drain(encode_stream(prepared, settings, folder / "rung.mp4", ffmpeg)).path


def refused(rungs: list[Rung], folder: Path, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        drain(package(rungs, [], folder / "out", SECOND))
    assert not [path for path in folder.iterdir() if "out" in path.name]


def test_another_segment_length_is_refused(
    ladder_parts: Any, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    two = rung_x265_params(Fraction(25), Fraction(2))
    rung = make_rung(ladder_parts.source, tmp_path, ffmpeg, two)
    refused([Rung(rung)], tmp_path, InputError, "a keyframe every 25 pictures")


def test_open_groups_are_refused(ladder_parts: Any, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    params = (*rung_x265_params(Fraction(25), Fraction(1)), ("open-gop", "1"))
    rung = make_rung(ladder_parts.source, tmp_path, ffmpeg, params)
    refused([Rung(rung)], tmp_path, InputError, "closed groups")


def test_rungs_of_different_titles_are_refused(
    ladder_parts: Any, tmp_path: Path, ffmpeg: Ffmpeg, make_clip: Any
) -> None:
    short = make_clip("another-title.mkv", size=(128, 72), fps="25", frames=60)
    rung = make_rung(short, tmp_path, ffmpeg, rung_x265_params(Fraction(25), Fraction(1)))
    rungs = [Rung(ladder_parts.high), Rung(rung)]
    refused(rungs, tmp_path, InputError, "differ from segment 3 on")


def test_weights_must_suit_their_rungs(ladder_parts: Any, tmp_path: Path) -> None:
    weights = ladder_parts.weights
    kind = WeightsStreamMismatchError
    refused([Rung(ladder_parts.low, weights)], tmp_path, kind, "fitted to none")
    rungs = [Rung(ladder_parts.middle, weights), Rung(ladder_parts.high, weights)]
    refused(rungs, tmp_path, kind, "for coded pictures of 64x36")
    refused([Rung(ladder_parts.fallback, weights)], tmp_path, UsageError, "H.265 rungs only")


def test_a_variable_rate(tmp_path: Path, ffmpeg: Ffmpeg, make_clip: Any) -> None:
    """Segments are counted in pictures: equal in number, not in time, the same in every rung."""
    clip = make_clip(
        "jitter.mov",
        size=(128, 72),
        frames=60,
        # Each picture lasts a little longer than the one before.
        filters="settb=1/24000,setpts=900*N+5*N*N",
        options=("-fps_mode", "passthrough", "-enc_time_base", "1:24000"),
    )
    source = drain(prepare(clip, SourceOptions(), tmp_path / "work"))
    rungs = []
    for name, crf in (("a", 30), ("b", 40)):
        params = rung_x265_params(source.info.average_fps, Fraction(1))
        settings = StreamSettings(crf, "ultrafast", x265_params=params)
        out = tmp_path / f"{name}.mp4"
        rungs.append(Rung(drain(encode_stream(source, settings, out, ffmpeg)).path))
    files = drain(package(rungs, [], tmp_path / "x", SECOND))
    durations = [
        [s.duration for s in m3u8.load(str(tmp_path / "x" / r.folder / "media.m3u8")).segments]
        for r in files.index.rungs
    ]
    assert durations[0] == durations[1]
    assert len(set(durations[0])) > 1
    assert sum(r.num_frames for r in files.index.rungs) == 120


def test_outputs_in_the_way(ladder_parts: Any, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    rungs = [Rung(ladder_parts.high)]
    with pytest.raises(UsageError, match="is not empty"):
        drain(package(rungs, [], folder, SECOND))
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    with pytest.raises(UsageError, match="got the file"):
        drain(package(rungs, [], folder / "mine.txt", SECOND))
    drain(package(rungs, [], folder, replace(SECOND, overwrite=True)))
    assert not (folder / "mine.txt").exists()
    assert (folder / "master.m3u8").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    with pytest.raises(UsageError, match="1 to 64 rungs"):
        drain(package([], [], tmp_path / "none", SECOND))


def test_stopped_mid_way_nothing_is_left(ladder_parts: Any, tmp_path: Path) -> None:
    events = package([Rung(ladder_parts.low), Rung(ladder_parts.high)], [], tmp_path / "x", SECOND)
    next(events)
    next(events)
    events.close()
    assert not list(tmp_path.iterdir())


def test_a_title_shorter_than_a_segment(ladder_parts: Any, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    params = rung_x265_params(Fraction(25), Fraction(4))
    rung = make_rung(ladder_parts.source, tmp_path, ffmpeg, params)
    audio = [AudioTrack(ladder_parts.low)]
    events = list(package([Rung(rung)], audio, tmp_path / "x", PackageSettings()))
    assert any("no longer than one segment" in e.message for e in events if isinstance(e, Notice))
    assert len(list((tmp_path / "x" / "audio-1").glob("seg-*"))) == 1
    media = m3u8.load(str(tmp_path / "x" / "video-1" / "media.m3u8"))
    assert [s.duration for s in media.segments] == [3.4]
    assert media.target_duration == 3


@pytest.mark.parametrize(
    "bad",
    [{"position": -1}, {"language": "e n"}, {"name": 'a "name"'}, {"name": ""}, {"name": "a\nb"}],
)
def test_bad_audio_tracks(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        AudioTrack(Path("x.mp4"), **bad)


def test_sound_that_is_not_there_or_not_for_segments(
    ladder_parts: Any, tmp_path: Path, make_clip: Any
) -> None:
    rungs = [Rung(ladder_parts.high)]
    with pytest.raises(UsageError, match="another name"):
        drain(package(rungs, [AudioTrack(ladder_parts.low)] * 2, tmp_path / "x", SECOND))
    with pytest.raises(InputError, match="audio track 2"):
        drain(package(rungs, [AudioTrack(ladder_parts.low, 1)], tmp_path / "x", SECOND))
    sound = ("-f", "lavfi", "-t", "1", "-i", "sine=sample_rate=48000")
    pcm = make_clip("pcm.mkv", inputs=sound, options=("-c:a", "pcm_s16le"))
    with pytest.raises(InputError, match="got pcm_s16le"):
        drain(package(rungs, [AudioTrack(pcm)], tmp_path / "x", SECOND))


# ------------------------------------------------------------------------------- fallback, rates


def test_fallback_is_what_every_browser_plays(ladder_parts: Any) -> None:
    codec = video_codec(ladder_parts.fallback)
    # High profile, level 1.3, which is the lowest that the table has.
    assert codec.codecs == "avc1.64000D"
    assert codec.range == "SDR"


def test_fallback_of_hdr_is_refused(clip_hdr10: Path, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    source = drain(prepare(clip_hdr10, SourceOptions(), tmp_path / "work"))
    with pytest.raises(InputError, match="standard dynamic range"):
        drain(encode_fallback(source, FallbackSettings(), tmp_path / "x.mp4", ffmpeg))
    assert not (tmp_path / "x.mp4").exists()


def test_fallback_of_ten_bits_and_odd_size(tmp_path: Path, ffmpeg: Ffmpeg, make_clip: Any) -> None:
    clip = make_clip("odd10.mkv", size=(99, 75), frames=6, pixel_format="yuv420p10le", filters="")
    source = drain(prepare(clip, SourceOptions(), tmp_path / "work"))
    settings = FallbackSettings(preset="ultrafast", crf=10)
    drain(encode_fallback(source, settings, tmp_path / "x.mp4", ffmpeg))
    (first, *_) = frames = list(read_frames(tmp_path / "x.mp4"))
    assert len(frames) == 6
    assert (first.y.shape, first.y.dtype.name) == ((76, 100), "uint8")
    expected = next(iter(read_frames(clip))).y / 4
    assert abs(first.y[:75, :99] - expected).mean() < 3


def test_sound_of_any_kind_as_aac(tmp_path: Path, ffmpeg: Ffmpeg, make_clip: Any) -> None:
    sound = ("-f", "lavfi", "-t", "1", "-i", "sine=sample_rate=44100")
    pcm = make_clip("pcm44.mkv", inputs=sound, options=("-c:a", "pcm_s16le"))
    encode_audio(pcm, 0, tmp_path / "sound.mp4", ffmpeg)
    with av.open(str(tmp_path / "sound.mp4")) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.channels) == ("aac", 2)


def track(durations: list[int], sizes: list[int]) -> Track:
    starts = [sum(durations[:n]) for n in range(len(durations))]
    pairs = zip(starts, durations, sizes, strict=True)
    return Track(10, tuple(Segment(s, d, d, b) for s, d, b in pairs))


def test_peak_is_over_runs_near_the_target() -> None:
    even = track([40, 40, 40, 4], [4000, 8000, 4000, 3000])
    assert average_rate(even) == -(-19000 * 8 * 10 // 124)
    # The last 0.4 s count only together with what is before them: 56 000 bits in 4.4 s.
    assert peak_rate(even, 4) == 16000
    assert peak_rate(track([40, 4], [4000, 9000]), 4) == -(-13000 * 8 * 10 // 44)
    # Shorter than half a target duration: the whole.
    assert peak_rate(track([4], [100]), 4) == 2000


@pytest.mark.parametrize(
    ("fps", "seconds", "frames"),
    [(25, 4, 100), (Fraction(24000, 1001), 4, 96), (Fraction(30000, 1001), 1, 30), (12, 0.5, 6)],
)
def test_segments_are_whole_frames(fps: Fraction, seconds: float, frames: int) -> None:
    assert segment_frames(Fraction(fps), Fraction(seconds)) == frames


def test_x265_parameters_of_a_rung() -> None:
    params = rung_x265_params(Fraction(24000, 1001), Fraction(4), 1500, Fraction(3, 2))
    assert dict(params) == {
        "keyint": "96",
        "min-keyint": "96",
        "open-gop": "0",
        "vbv-maxrate": "1500",
        "vbv-bufsize": "2250",
        "const-vbv": "1",
    }
    assert len(rung_x265_params(Fraction(25), Fraction(4))) == 3
    StreamSettings(20, x265_params=params)
    for bad in ((Fraction(25), Fraction(1, 4)), (Fraction(25), Fraction(90))):
        with pytest.raises(UsageError):
            rung_x265_params(*bad)
    with pytest.raises(UsageError):
        rung_x265_params(Fraction(25), Fraction(4), 0)


def test_the_index_is_plain_json(ladder: Path) -> None:
    values = json.loads((ladder / INDEX_NAME).read_text(encoding="utf-8"))
    assert values["format"] == "codecaux-ladder"
    assert values["format_version"] == 1
