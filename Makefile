# What one does with the sources; CONTRIBUTING.md says more.
.PHONY: build test lint docs pictures

SOURCES = find csrc tests -name '*.h' -o -name '*.inl' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu'

build: ## compile grad._C in place; TORCH_CUDA_ARCH_LIST=9.0 or GRAD_CUDA=0 make it quicker
	pip install --editable ".[test,dev,docs]"

test: ## everything that runs on this machine
	python -m pytest
	tests/sanitize/run.sh
	tests/emulate/run.sh

lint: ## the tools of the extra "dev"
	ruff check .
	ruff format --check .
	$(SOURCES) | xargs clang-format --dry-run -Werror
	mypy

docs: ## the pages, at build/site
	mkdocs build --strict --config-file docs/mkdocs.yml --site-dir ../build/site

pictures: ## docs/images, of a run on the demo set; RUN=DIR takes one that is there
	python docs/pictures.py $(RUN)
