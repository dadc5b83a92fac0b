"""Translate a TIFF by a ResNet-9 of full width under a hard limit: `large_image.py IN OUT MEMORY LIMIT_MB`.

The limit is the system's (RLIMIT_DATA: what the process itself allocates). Prints the peak of resident memory above
what the process had before, the prediction, and seconds.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import tifffile
import torch

from translate import tiling
from translate.convert import convert
from translate.images.reading import ImageConfig
from translate.networks import ResNetConfig
from translate.runs.release import Release


def main(source: Path, out: Path, memory: str, limit_mb: int) -> None:
    torch.set_num_threads(2)
    resource.setrlimit(resource.RLIMIT_DATA, (limit_mb * 10**6, limit_mb * 10**6))
    torch.manual_seed(0)
    generator = ResNetConfig().build(3, 3).eval()
    with tifffile.TiffFile(source) as tiff:
        height, width, _ = tiff.pages[0].shape
    forecast = tiling.forecast(generator, (1, 3, height, width), memory=memory)
    release = Release(generator, ImageConfig(), ImageConfig(), "ab", "full width", "0" * 64)
    with torch.no_grad():
        generator(torch.zeros(1, 3, 256, 256))  # what the libraries take for themselves
    before, most, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], resident())
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.monotonic()
    summary = convert(source, out, release, precision="fp32", memory=memory, workers=0)
    seconds = time.monotonic() - begin
    done.set()
    watcher.join()
    assert summary.exit_code == 0, [str(row) for row in summary.failed]
    json.dump({"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
               "peak_above_before": most[0] - before, "predicted_bytes": forecast.peak_bytes,
               "predicted_disk_bytes": forecast.disk_bytes, "strip_rows": forecast.settings.strip_rows,
               "compute": forecast.compute, "seconds": seconds}, sys.stdout)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
