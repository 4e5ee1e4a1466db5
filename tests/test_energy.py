import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from headstart import energy
from headstart.energy import Gauge


def zone(powercap: Path, name: str, energy_uj: int, called: str, range_uj: int = 10**9) -> None:
    folder = powercap / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in (("name", called), ("energy_uj", energy_uj)):
        (folder / file).write_text(f"{content}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test moves on by itself."""
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(energy, "time", SimpleNamespace(monotonic=lambda: now.s))
    return now


def test_the_joules_of_all_packages_are_added_and_of_nothing_else(tmp_path, clock):
    zone(tmp_path, "intel-rapl:0", 1_000_000, "package-0")
    zone(tmp_path, "intel-rapl:1", 5_000_000, "package-1")
    zone(tmp_path, "intel-rapl:0:0", 0, "core")  # in the package already
    zone(tmp_path, "intel-rapl:2", 0, "psys")  # has the packages in it
    gauge = Gauge(powercap=tmp_path)
    assert gauge.joules() == 0.0
    for name, reading in (("0", 3_500_000), ("1", 6_000_000), ("0:0", 9), ("2", 99_000_000)):
        (tmp_path / f"intel-rapl:{name}/energy_uj").write_text(str(reading))
    assert gauge.joules() == pytest.approx(2.5 + 1.0)
    assert gauge.joules() == pytest.approx(2.5 + 1.0)  # read twice, counted once


def test_a_counter_that_came_around_goes_on_from_zero(tmp_path, clock):
    zone(tmp_path, "intel-rapl:0", 998_000_000, "package-0", range_uj=10**9)
    gauge = Gauge(powercap=tmp_path)
    zone(tmp_path, "intel-rapl:0", 3_000_000, "package-0")
    assert gauge.joules() == pytest.approx(2.0 + 3.0)
    zone(tmp_path, "intel-rapl:0", 4_000_000, "package-0")
    assert gauge.joules() == pytest.approx(6.0)


def test_a_pause_in_which_a_counter_may_come_around_twice_is_unknown_unless_polled(tmp_path, clock):
    # 10 kJ: at 1000 W it comes around in 10 s.
    zone(tmp_path, "intel-rapl:0", 0, "package-0", range_uj=10**10)
    polled, left = Gauge(powercap=tmp_path), Gauge(powercap=tmp_path)
    for clock.s in (6.0, 12.0):
        zone(tmp_path, "intel-rapl:0", round(clock.s * 1e6), "package-0", range_uj=10**10)
        polled.poll()
    assert polled.joules() == pytest.approx(12.0)
    assert left.joules() is None
    assert left.joules() is None  # for good


def test_a_machine_without_counters_or_whose_counters_are_kept_from_us_is_unknown(tmp_path, clock):
    assert Gauge(powercap=tmp_path).joules() is None
    zone(tmp_path, "intel-rapl:0", 0, "psys")
    assert Gauge(powercap=tmp_path).joules() is None
    zone(tmp_path, "intel-rapl:0", 0, "package-0")
    gauge = Gauge(powercap=tmp_path)
    (tmp_path / "intel-rapl:0/energy_uj").unlink()
    assert gauge.joules() is None
    (tmp_path / "intel-rapl:0/energy_uj").mkdir()  # an OSError on reading, as without permission
    assert Gauge(powercap=tmp_path).joules() is None


class NVMLError(Exception):
    pass


@pytest.fixture
def nvml(monkeypatch):
    """Two GPUs of which the first has drawn 1 kJ; "GPU-b" is the second."""
    drawn_mj = {0: 1_000_000, 1: 50_000}

    def total(handle):
        if handle not in drawn_mj:
            raise NVMLError("Not Supported")
        return drawn_mj[handle]

    fake = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID={"GPU-b": 1, "MIG-c": 2}.__getitem__,
        nvmlDeviceGetTotalEnergyConsumption=total,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return drawn_mj


@pytest.mark.parametrize(("visible", "joules"), [("", 4.0), ("0", 4.0), ("GPU-b,0", 9.0)])
def test_the_gpus_held_are_added_by_nvml(tmp_path, clock, nvml, monkeypatch, visible, joules):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    zone(tmp_path, "intel-rapl:0", 0, "package-0")
    with_gpu, without = Gauge(1, tmp_path), Gauge(0, tmp_path)
    zone(tmp_path, "intel-rapl:0", 1_500_000, "package-0")
    nvml[0], nvml[1] = 1_004_000, 59_000
    assert with_gpu.joules() == pytest.approx(1.5 + joules)
    assert without.joules() == pytest.approx(1.5)


def test_a_gpu_that_cannot_tell_makes_the_whole_unknown(tmp_path, clock, nvml, monkeypatch):
    zone(tmp_path, "intel-rapl:0", 0, "package-0")
    gauge = Gauge(1, tmp_path)
    nvml[0] = 0  # the driver was loaded anew
    assert gauge.joules() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-c")
    assert Gauge(1, tmp_path).joules() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert Gauge(1, tmp_path).joules() is None
    assert math.isfinite(Gauge(0, tmp_path).joules() or 0.0)
