# make run    set everything up and serve on 127.0.0.1:8080, data under ./data
# make unit   run the tests that need no server, no network, no models and no process of the service
# make test   set everything up and run all checks and tests
# make help   the other targets
PYTHON ?= python3
BIN := .venv/bin
# Processes that run tests side by side. Those with services share by files, and take both cores.
PYTEST = $(BIN)/python -m pytest
SIDE_BY_SIDE = -n 2 --dist loadfile --no-loadscope-reorder
UNIT_SIDE_BY_SIDE = -n 3 --dist worksteal

.PHONY: help run unit test install install-dev photos services services-down soak soak-services soak-erase soak-foreign interop bench bench-bulk bench-reembed bench-services
help:
	@sed -n 's/^# make/make/p' Makefile

run: install
	@$(BIN)/facestream weights get
	@$(BIN)/facestream up

# The tests start hundreds of processes: Python shall keep what it has compiled.
unit test: export PYTHONDONTWRITEBYTECODE =

unit: install-dev
	$(PYTEST) $(UNIT_SIDE_BY_SIDE) -m "not servers and not models and not e2e"

test: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/services.py prepare || { test $$? = 3 && test "$$FACESTREAM_REQUIRE_SERVICES" != 1; }
	$(PYTEST) $(SIDE_BY_SIDE)

# make photos get a few photos to try with, into ./photos
photos: install
	@$(BIN)/python scripts/photos.py

# make services       start a real Kafka, MinIO and Cassandra on free ports and print the settings that choose them
services:
	@$(PYTHON) scripts/services.py up

# make services-down  end just those and delete their data
services-down:
	@$(PYTHON) scripts/services.py down

# make soak   kill -9 at 50 random moments under load, then check that nothing was lost (minutes)
soak: install-dev photos
	@$(BIN)/facestream weights get
	$(BIN)/python -m bench.soak.kills --kills 50

# make soak-services   kill and hold roles and servers under load, then check that nothing was lost (minutes)
soak-services: install-dev photos
	@$(BIN)/facestream weights get
	eval "$$($(BIN)/python scripts/services.py up)" && $(BIN)/python -m bench.soak.faults

# make soak-erase   erase people while their images are in flight and roles are killed or held (half an hour)
soak-erase: install-dev photos
	@$(BIN)/facestream weights get
	$(BIN)/python -m bench.soak.erase --embedded
	eval "$$($(BIN)/python scripts/services.py up)" && $(BIN)/python -m bench.soak.erase

# make soak-foreign   100,000 events of other systems' clients while roles are killed (a quarter of an hour)
soak-foreign: install-dev
	eval "$$($(BIN)/python scripts/services.py up)" && $(BIN)/python -m bench.soak.foreign

# make interop   the CloudEvents SDKs of three languages send events, and generators of code read the contracts (minutes)
interop: install-dev
	eval "$$($(BIN)/python scripts/services.py up)" && $(BIN)/python -m bench.interop
	$(BIN)/python -m bench.interop.generators

# make bench  measure the speed of this machine: the service against the bare models (minutes)
bench: install-dev photos
	@$(BIN)/facestream weights get
	$(BIN)/python -m bench.speed

# make bench-reembed PHOTOS=FOLDER  re-embed 50,000 faces of LFW, in FOLDER/lfw, beside clients (a quarter of an hour)
bench-reembed: install-dev
	@$(BIN)/facestream weights get
	$(BIN)/python -m bench.speed.reembed --embedded

# make bench-bulk   5,000 pictures in bulk beside interactive clients (an hour)
bench-bulk: install-dev photos
	@$(BIN)/facestream weights get
	$(BIN)/python -m bench.speed.bulk

# make bench-services  what facestream adds to its servers, and many processes that come and go (minutes)
bench-services: install-dev photos
	@$(BIN)/facestream weights get
	eval "$$($(BIN)/python scripts/services.py up)" && for each in speed.stream_overhead speed.efficiency speed.cassandra speed.scaling_out soak.scaling; do $(BIN)/python -m bench.$$each || failed=1; done; test -z "$$failed"

install:
	@$(PYTHON) scripts/install.py

install-dev:
	@$(PYTHON) scripts/install.py --dev
