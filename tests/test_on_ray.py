"""Conversion on a Ray cluster of two nodes on this machine, whose workers, nodes and driver are killed at any time."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.adaptation import stripes_recipe, write_stripes
from tests.conversions import fill, noise, processes_of, tree
from tests.runs import Silent, cyclegan_recipe
from tests.test_convert import Watcher
from tests.test_sampling import noise_recipe
from translate.adapt import make
from translate.cluster.ray_engine import RayEngine
from translate.convert.jobs import LEDGERS, Shard
from translate.errors import NetworkError, UsageError
from translate.foreign import read_lines
from translate.images.writing import write_image
from translate.recipe import Recipe
from translate.training.loop import train

ROOT = Path(__file__).parent.parent
ray = pytest.importorskip("ray", reason="needs ray: pip install 'diptych[ray]'")
pytestmark = pytest.mark.slow
ROUNDS = 20
SECONDS = 240  # for one call, in which torch is imported by three processes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that does no work, and two nodes of one core each."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = str(ROOT)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = made.address
    yield made
    del os.environ["RAY_ADDRESS"]
    made.shutdown()


def start(source: Path, out: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "tests.ray_driver", source, out, log, str(seconds)], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def num_lines(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def works(log: Path, beyond: int, process: subprocess.Popen[str]) -> bool:
    """Wait until images are translated again, or all is done."""
    until = time.monotonic() + SECONDS
    while num_lines(log) <= beyond and process.poll() is None:
        assert time.monotonic() < until, "nobody works"
        time.sleep(0.05)
    return process.poll() is None


def kill(what: str, cluster: Any, driver: subprocess.Popen[str], log: Path) -> None:
    """Kill a worker that has just translated an image, one of the nodes, or the driver."""
    if what == "worker":
        os.kill(int(log.read_text().splitlines()[-1].split()[0]), signal.SIGKILL)
    elif what == "driver":
        os.killpg(driver.pid, signal.SIGKILL)
    else:
        node = random.choice([each for each in cluster.list_all_nodes() if each is not cluster.head_node])
        for number in processes_of(node.all_processes["raylet"][0].process.pid):
            os.kill(number, signal.SIGKILL)
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1)


def test_workers_nodes_and_drivers_that_are_killed_lose_nothing(cluster: Any, tmp_path: Path) -> None:
    """Every file is done once in the end, as one process makes it, and nobody ever sees half a file."""
    random.seed(0)
    fill(tmp_path / "in", 500)
    kinds, killed, finished = ["worker", "node", "worker", "driver"], 0, 0
    lost: dict[str, list[float]] = {kind: [] for kind in kinds}
    while killed < ROUNDS or not finished:
        out, log = tmp_path / f"out{finished}", tmp_path / "log"
        out.mkdir(exist_ok=True)
        watcher = Watcher(out)
        watcher.start()
        driver = start(tmp_path / "in", out, log, 200.0)  # 0.1 s for an image
        while works(log, num_lines(log), driver) and killed < ROUNDS:
            time.sleep(random.uniform(0, 4))
            what, since, before = kinds[killed % len(kinds)], time.time(), num_lines(log)
            if driver.poll() is not None:
                break
            kill(what, cluster, driver, log)
            killed += 1
            if what == "driver":
                driver.wait()
                break
            works(log, before + 1, driver)
            lost[what].append(time.time() - since)
        if what_was_said := driver.communicate(timeout=SECONDS)[0]:
            print(killed, what_was_said)  # noqa: T201
        watcher.ended.set()
        watcher.join()
        assert not watcher.half and driver.returncode in (0, -signal.SIGKILL)
        if driver.returncode:
            continue

        # All of it is there, and what each ledger says of it is true.
        alone = tmp_path / "alone"
        if not finished:
            negatives(tmp_path / "in", alone)
        assert tree(out) == tree(alone)
        done = [row["path"] for path in out.glob(f"{LEDGERS}*") for row in read_lines(path) if row["status"] == "done"]
        print(f"{len(done) - 500} of 500 images were translated twice")  # noqa: T201
        assert set(done) == {str(path.relative_to(tmp_path / "in")) for path in (tmp_path / "in").rglob("*.png")}
        finished += 1
    print(json.dumps({kind: [round(each, 1) for each in values] for kind, values in lost.items()}))  # noqa: T201


def negatives(source: Path, out: Path) -> None:
    """What one process makes of a folder."""
    from tests.conversions import release_of
    from tests.ray_driver import Slow
    from translate.convert import convert

    assert convert(source, out, release_of(Slow(Path(os.devnull), 0.0)), device="cpu", precision="fp32",
                   workers=0).exit_code == 0


def test_workers_end_together_though_images_differ_a_hundredfold(cluster: Any, tmp_path: Path) -> None:
    random.seed(1)
    sides = np.geomspace(64, 640, 200).round().astype(int)  # px; their squares differ a hundredfold
    random.shuffle(sides)
    (tmp_path / "in").mkdir()
    for number, side in enumerate(sides):
        write_image(tmp_path / "in" / f"{number:03d}.png", noise(side, side, seed=number), compression=0)
    driver = start(tmp_path / "in", tmp_path / "out", tmp_path / "log", 3.0)
    assert driver.wait(SECONDS) == 0
    rows = [list(map(float, line.split())) for line in (tmp_path / "log").read_text().splitlines()]
    workers = [[row for row in rows if row[0] == each] for each in {row[0] for row in rows}]
    ends, begun = ([when(row[column] for row in each) for each in workers] for when, column in ((max, 2), (min, 1)))

    # Between two of its images a worker reads and writes, on cores that are busy with other things: that is work too.
    idle = sum(later[1] - former[2] for each in workers for former, later in itertools.pairwise(each)
               if later[1] - former[2] > 5)
    ideal = (sum(ends) - sum(begun) - idle + max(begun) - min(begun)) / 2
    took = max(ends) - min(begun)
    parts = [sum(side * side for number, side in enumerate(sides) if Shard(index, 2).has(f"{number:03d}.png"))
             for index in (1, 2)]
    print(f"makespan {took:.1f} s, {took / ideal:.3f} of the ideal; static shards {2 * max(parts) / sum(parts):.3f}")  # noqa: T201
    assert len(rows) == 200 and len(workers) == 2 and took <= 1.15 * ideal


def test_a_file_that_kills_its_workers_is_named_and_the_others_are_done(cluster: Any, tmp_path: Path) -> None:
    fill(tmp_path / "in", 6)
    log = tmp_path / "log"
    script = ("import os; from tests import ray_driver; from tests.ray_driver import *\n"
              "class Deadly(Slow):\n"
              "    def translate(self, image):\n"
              "        if image.shape[2] == 40: os._exit(1)\n"
              "        return super().translate(image)\n"
              "ray_driver.Slow = Deadly; ray_driver.main()")
    write_image(tmp_path / "in" / "deadly.png", noise(40, 40))
    ended = subprocess.run([sys.executable, "-c", script, tmp_path / "in", tmp_path / "out", log, "1"], cwd=ROOT,
                           capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "6 0 1 deadly.png: convert: 3 workers have died with it in hand" in ended.stdout


def test_a_stopped_driver_ends_with_what_is_done_and_goes_on(cluster: Any, tmp_path: Path) -> None:
    fill(tmp_path / "in", 60)
    driver = start(tmp_path / "in", tmp_path / "out", tmp_path / "log", 500.0)
    assert works(tmp_path / "log", 3, driver)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(60) == 75
    driver = start(tmp_path / "in", tmp_path / "out", tmp_path / "log", 0.0)
    said = driver.communicate(timeout=SECONDS)[0]
    converted, already, failed = map(int, said.split()[-3:])
    assert (converted + already, failed, driver.returncode) == (60, 0, 0) and already >= 3


def test_the_command_line_says_of_a_cluster_what_it_says_of_a_process(cluster: Any, tmp_path: Path, shared_pairs: Path,
                                                                      trained: Callable[[Recipe], Path]) -> None:
    run = trained(cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "images": 2, "batch_size": 2}]))
    fill(tmp_path / "in", 5)
    (tmp_path / "in" / "broken.png").write_text("no image")
    (tmp_path / "in" / "notes.txt").touch()
    said = []
    for out, more in (("alone", ()), ("together", ON_RAY)):
        words = ["convert", tmp_path / "in", tmp_path / out, "--model", run, "--precision", "fp32", *more]
        lines = command(*words, code=3).replace(str(tmp_path / out), "OUT").splitlines()
        said.append([line for line in lines if "broken.png" in line or "converted" in line or "skipped" in line])
    assert said[0] == said[1] and "5 converted, 0 done before, 1 failed, 1 skipped, of 6 images → OUT" in said[1]
    assert tree(tmp_path / "alone") == tree(tmp_path / "together")


def command(*words: Any, code: int = 0) -> str:
    """Run a command as people do; return what it has said."""
    ended = subprocess.run([sys.executable, "-m", "translate", *map(str, words)], cwd=ROOT, capture_output=True,
                           text=True, timeout=SECONDS)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout


ON_RAY = "--engine", "ray", "--engine-cores", "1"


def test_a_draw_and_scores_are_on_a_cluster_what_they_are_of_a_process(cluster: Any, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for split, name in itertools.product(("train", "test"), ("cats", "dogs")):
        fill(folder / split / name, 6, 8, 8)
    train(noise_recipe(folder), tmp_path / "run", Silent())
    documents = []
    for out, more in (("alone", ()), ("together", ON_RAY)):
        command("sample", tmp_path / "run", tmp_path / out, "--num", 50, *more)
        document = json.loads(command("evaluate", tmp_path / "run", "--json", "-", *more))
        documents.append((document["metrics"], document["missing"], document["num_images"]))
    assert tree(tmp_path / "alone") == tree(tmp_path / "together") and len(tree(tmp_path / "together")) == 52
    assert documents[0] == documents[1] and documents[0][2] == 12
    kept = "50 images, 50 of which were there"
    assert kept in command("sample", tmp_path / "run", tmp_path / "together", "--num", 50, *ON_RAY)


def test_an_adapted_set_is_on_a_cluster_what_it_is_of_a_process(cluster: Any, tmp_path: Path) -> None:
    recipe = stripes_recipe(write_stripes(tmp_path / "data", 12))
    (alone,) = make(recipe, tmp_path / "alone", Silent(), device="cpu")
    (tmp_path / "stripes.yaml").write_text(recipe.dump_yaml())
    said = command("adapt", "make", tmp_path / "stripes.yaml", "--out", tmp_path / "together", "--device", "cpu",
                   "--model", tmp_path / "alone" / "translator", *ON_RAY)
    assert f"hash {alone.hash[:16]}" in said


def test_an_engine_that_is_none_and_a_cluster_that_is_not_there_are_named() -> None:
    with pytest.raises(UsageError, match="--engine dask: expected ray"):
        RayEngine("dask")
    with pytest.raises(NetworkError, match="no Ray cluster answers"), RayEngine("ray://127.0.0.1:1"):
        pass
