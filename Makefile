# lamina: `make demo` shows it working, `make test` checks it. Both install what they need.
PYTHON ?= python3
VENV ?= .venv
CORPUS ?= .cache/corpus
SCRATCH ?= .cache/scratch
RUNS ?= 3

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help venv test lint format demo bench corpus clean

help:
	@echo "make demo    build two small Debian systems, put both in a pool, show what is saved, run Python from the mount"
	@echo "make test    lint, types and tests"
	@echo "make bench   measure against squashfs, borg, skopeo and others on real PyTorch images (CORPUS=DIR SCRATCH=DIR RUNS=N; 60 GB, hours)"
	@echo "make venv    only the virtual environment ($(VENV))"
	@echo "make format  let ruff put the code in order"
	@echo "make clean   remove the environment and every cache"

venv: $(STAMP)

# Installed anew only when the dependencies may have changed: the install is editable, the code needs none.
$(STAMP): pyproject.toml scripts/make-venv.sh
	@bash scripts/make-venv.sh "$(VENV)" "$(PYTHON)"
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# fusermount3 for mounts of other users, setfacl to make trees that carry ACLs; the others are what images and streams
# have to get along with. A test whose program cannot be had says so and is skipped.
PEERS := fusermount3=fuse3 setfacl=acl skopeo=skopeo umoci=umoci containerd=containerd runc=runc \
	docker-registry=docker-registry htpasswd=apache2-utils openssl=openssl podman=podman buildah=buildah \
	sshd=openssh-server ssh=openssh-client gpg=gnupg age=age ip=iproute2 rsync=rsync

test: lint
	@bash scripts/apt-need.sh --try $(PEERS)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -q

format: $(STAMP)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

demo: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash demo/run.sh

corpus: $(STAMP)
	$(BIN)/python -m benchmarks.corpus "$(CORPUS)"

bench: corpus
	@bash scripts/apt-need.sh mksquashfs=squashfs-tools squashfuse=squashfuse borg=borgbackup fusermount3=fuse3 \
		restic=restic rsync=rsync skopeo=skopeo umoci=umoci containerd=containerd docker-registry=docker-registry
	$(BIN)/python -m benchmarks.space --corpus "$(CORPUS)" --scratch "$(SCRATCH)" --peers squashfs,borg
	$(BIN)/python -m benchmarks.imports --corpus "$(CORPUS)" --scratch "$(SCRATCH)" --runs $(RUNS)
	$(BIN)/python -m benchmarks.read --corpus "$(CORPUS)" --scratch "$(SCRATCH)" --runs $(RUNS)
	$(BIN)/python -m benchmarks.latency --scratch "$(SCRATCH)" --image "$(CORPUS)/img-2.8.0"
	$(BIN)/python -m benchmarks.index --corpus "$(CORPUS)" --scratch "$(SCRATCH)" --runs 1
	$(BIN)/python -m benchmarks.scrub --corpus "$(CORPUS)" --scratch "$(SCRATCH)" --images 2.8.0 --runs $(RUNS)
	$(BIN)/python -m benchmarks.gc --corpus "$(CORPUS)" --scratch "$(SCRATCH)" --runs $(RUNS)
	$(BIN)/python -m benchmarks.snapshots --scratch "$(SCRATCH)" --image "$(CORPUS)/img-2.8.0"
	$(BIN)/python -m benchmarks.growth --scratch "$(SCRATCH)"
	$(BIN)/python -m benchmarks.layered --corpus "$(CORPUS)" --output "$(SCRATCH)/layered"
	$(BIN)/python -m benchmarks.images --layered "$(SCRATCH)/layered" --scratch "$(SCRATCH)" --runs $(RUNS)
	$(BIN)/python -m benchmarks.replication --corpus "$(CORPUS)" --scratch "$(SCRATCH)" --runs $(RUNS)
	$(BIN)/python -m benchmarks.sync --corpus "$(CORPUS)" --scratch "$(SCRATCH)" --runs $(RUNS)

clean:
	rm -rf "$(VENV)" .cache .pytest_cache .hypothesis
