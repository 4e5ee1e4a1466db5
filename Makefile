PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: run test check format build clean

run: .venv/run          ## a quarter of an hour: the laptop recipe, then open runs/first/report.html
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
