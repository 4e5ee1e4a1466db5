PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: run test check format build interop durability clean

run: .venv/run          ## the laptop recipe, a quarter of an hour or three; then open runs/first/report.html
	.venv/bin/headstart run --recipe laptop --out runs/first --resume

test: .venv/dev check   ## the checks and the tests
	.venv/bin/python -m pytest

check: .venv/dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright

format: .venv/dev
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

build: .venv/dev        ## the wheel, and the smoke recipe from it in a fresh environment
	rm -rf dist build/wheel
	.venv/bin/python -m build --wheel --quiet
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt dist/*.whl
	cd build && wheel/bin/headstart run --recipe smoke --out wheel/smoke

# Tests against the libraries that own the formats, each in an environment of its own (6 GB).
interop:
	for name in lerobot minari robomimic; do $(MAKE) build/interop-$$name || exit 1; done
	HF_HUB_OFFLINE=1 PYTHONPATH=src build/interop-lerobot/bin/python -m pytest tests/interop/test_real_lerobot.py
	PYTHONPATH=src build/interop-minari/bin/python -m pytest tests/interop/test_real_minari.py
	PYTHONPATH=src build/interop-robomimic/bin/python -m pytest tests/interop/test_real_robomimic.py

build/interop-lerobot:  ## LeRobot 0.6 needs Python 3.12
	python3.12 -m venv $@
	$@/bin/python -m pip install --quiet "lerobot[dataset]==0.6.1" pytest psutil

build/interop-minari:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet "minari[hdf5,arrow]==0.5.4" pillow psutil tqdm tyro pytest

build/interop-robomimic:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet torch==2.13.0 h5py numpy tqdm psutil six termcolor tensorboard \
		tensorboardX imageio matplotlib pillow pyarrow tyro pytest
	$@/bin/python -m pip install --quiet --no-deps robomimic==0.3.0

build/peers:            ## Stable-Baselines3 beside our scratch arm: benchmarks/peer_arms.py, ppo_time.py
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --constraint constraints.txt --editable . \
		stable-baselines3==2.9.2 sb3-contrib==2.9.2

durability: .venv/dev   ## every durability test at full size: half an hour; writes results/durability
	.venv/bin/python benchmarks/durability.py --out results/durability/report.json

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .ruff_cache

.venv/run: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'Python 3.11 or newer is needed'"
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/dev: .venv/run
	$(PIP) --editable ".[dev]"
	touch $@
