"""A real Ray cluster of one core: what the quick suite sees of it. Kills, nodes and balance are in `test_on_ray`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.conversions import fill, tiny_release, tree
from translate.cluster.ray_engine import RayEngine
from translate.convert import convert
from translate.host.signals import minding_signals

pytest.importorskip("ray", reason="needs ray: pip install 'diptych[ray]'")
ROOT = Path(__file__).parent.parent


def test_a_cluster_of_one_core_translates_a_folder_and_leaves_signals_alone(tmp_path: Path,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    fill(tmp_path / "in", 5)
    (tmp_path / "in" / "broken.png").write_text("no image")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        monkeypatch.setenv("RAY_ADDRESS", made.address)
        with minding_signals() as stop, RayEngine("ray", 1) as engine:
            summary = convert(tmp_path / "in", tmp_path / "out", tiny_release(), device="cpu", precision="fp32",
                              workers=0, engine=engine)
            os.kill(os.getpid(), signal.SIGTERM)  # Ray would end this process
            assert stop
    finally:
        made.shutdown()
    assert (summary.converted, [row.path for row in summary.failed]) == (5, ["broken.png"])
    convert(tmp_path / "in", tmp_path / "alone", tiny_release(), device="cpu", precision="fp32", workers=0)
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")
