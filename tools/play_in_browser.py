"""Play a ladder in headless Chromium with a player library: `play_in_browser.py DIR LIBRARY`.

DIR holds master.m3u8 and manifest.mpd; LIBRARY is a file of hls.js (hls.min.js: plays the former)
or dash.js (dash.all.min.js of the UMD build: the latter), as `npm install hls.js dashjs` brings
them. Prints one JSON object: what the library saw, which rung it took, how many pictures were
decoded. Exit code 0 where the title played to its end, 1 where not. All traffic stays on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE = """<!doctype html><meta charset="utf-8"><video id="v" muted width="640"></video>
<script src="/library.js"></script>
<script>
const video = document.getElementById("v");
const seen = {rungs: [], chosen: "", errors: [], supports: {}};
for (const codec of ["hvc1.1.6.L93.90", "avc1.64001F", "mp4a.40.2"])
  seen.supports[codec] = MediaSource.isTypeSupported(
    (codec.startsWith("mp4a") ? "audio" : "video") + '/mp4; codecs="' + codec + '"');
function picture() {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  return canvas.toDataURL("image/png");
}
let done = false;
function report(how) {
  if (done) return;
  done = true;
  const quality = video.getVideoPlaybackQuality();
  Object.assign(seen, {how, seconds: video.currentTime, duration: video.duration,
    width: video.videoWidth, height: video.videoHeight, frames: quality.totalVideoFrames,
    dropped: quality.droppedVideoFrames, audio_bytes: video.webkitAudioDecodedByteCount});
  if (video.videoWidth) seen.picture = picture();
  fetch("/report", {method: "POST", body: JSON.stringify(seen)});
}
video.addEventListener("ended", () => report("ended"));
video.addEventListener("error", () => { seen.errors.push(String(video.error.message)); });
setTimeout(() => report("timeout"), TIMEOUT);
function withHls() {
  const hls = new Hls();
  hls.on(Hls.Events.ERROR, (_, e) => {
    seen.errors.push(e.details); if (e.fatal) report("fatal"); });
  hls.on(Hls.Events.MANIFEST_PARSED, (_, e) => {
    seen.rungs = e.levels.map(l => l.videoCodec); seen.session = Object.keys(e.sessionData || {});
    video.play(); });
  hls.on(Hls.Events.LEVEL_SWITCHED, (_, e) => { seen.chosen = hls.levels[e.level].videoCodec; });
  hls.loadSource("/ladder/master.m3u8");
  hls.attachMedia(video);
}
function withDash() {
  const player = dashjs.MediaPlayer().create();
  player.on("error", e => {
    seen.errors.push(String(e.error.message || e.error)); report("fatal"); });
  player.on("streamInitialized", () => {
    seen.rungs = player.getTracksFor("video").map(t => t.codec); });
  player.on("qualityChangeRendered", e => {
    if (e.mediaType == "video") seen.chosen = player.getCurrentTrackFor("video").codec; });
  player.on("playbackStarted", () => {
    seen.chosen = player.getCurrentTrackFor("video").codec; });
  player.initialize(video, "/ladder/manifest.mpd", true);
}
try { window.Hls ? withHls() : withDash(); }
catch (e) { seen.errors.push(String(e)); report("fatal"); }
</script>"""


class Handler(SimpleHTTPRequestHandler):
    """The page, the library, the ladder's files; takes the page's report."""

    def __init__(self, *arguments: Any, ladder: Path, library: Path, page: str, box: Any) -> None:
        self.library, self.page, self.box = library, page, box
        super().__init__(*arguments, directory=str(ladder))

    def do_GET(self) -> None:
        if self.path == "/":
            self._send(self.page.encode(), "text/html")
        elif self.path == "/library.js":
            self._send(self.library.read_bytes(), "text/javascript")
        elif self.path.startswith("/ladder/"):
            self.path = self.path.removeprefix("/ladder")
            super().do_GET()
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        self.box.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._send(b"", "text/plain")

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Box:
    """One report, waited for."""

    def __init__(self) -> None:
        self._there = threading.Event()
        self._value: dict[str, Any] = {}

    def put(self, value: dict[str, Any]) -> None:
        self._value = value
        self._there.set()

    def take(self, timeout_seconds: float) -> dict[str, Any]:
        return self._value if self._there.wait(timeout_seconds) else {"how": "no report"}


def play(ladder: Path, library: Path, chromium: str, timeout_seconds: float) -> dict[str, Any]:
    """Serve, start the browser, wait for the page's report, stop both."""
    page, box = PAGE.replace("TIMEOUT", str(int(timeout_seconds * 1000))), Box()
    handler = partial(Handler, ladder=ladder, library=library, page=page, box=box)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--mute-audio"]
        options += ["--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"]
        options += ["--autoplay-policy=no-user-gesture-required", f"--user-data-dir={profile}"]
        command = [chromium, *options, f"http://127.0.0.1:{server.server_port}/"]
        quiet = subprocess.DEVNULL
        browser = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
        try:
            return box.take(timeout_seconds + 30)
        finally:
            browser.terminate()
            browser.wait(30)
            server.shutdown()
            server.server_close()


def main() -> int:
    """Play as the command line says; print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ladder", type=Path)
    parser.add_argument("library", type=Path)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds")
    parser.add_argument("--picture", type=Path, help="write the last picture shown (PNG)")
    options = parser.parse_args()
    if options.chromium is None:
        parser.error("no chromium on PATH; install it (Debian: apt install chromium)")
    report = play(options.ladder, options.library, options.chromium, options.timeout)
    picture = report.pop("picture", "")
    if options.picture and picture:
        options.picture.write_bytes(base64.b64decode(picture.partition(",")[2]))
    print(json.dumps(report, indent=1))  # noqa: T201
    return 0 if report["how"] == "ended" and not report["errors"] else 1


if __name__ == "__main__":
    sys.exit(main())
