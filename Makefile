# curve-nbd. `make` alone explains. Debian 12, with git, make and Go, is enough:
# the targets install what else they need.

FUZZTIME ?= 30s
TEST_TIMEOUT ?= 40m
GO ?= go
PREFIX ?= /usr/local

.DEFAULT_GOAL := help
.PHONY: help run test test-faults test-kernel check bench conformance fuzz build deb install gen clean

help:
	@echo 'make run     build, serve ./data with a demo volume, print what to try; Ctrl-C stops'
	@echo 'make test    go vet and every test, with the race detector'
	@echo 'make test-faults  the long form of the fault tests: an hour of kills, hangs and cuts'
	@echo 'make test-kernel  the long form of the kernel tests: an hour of /dev/nbdX and iSCSI in guests'
	@echo 'make check   gofmt, vet, staticcheck, generated code, go.mod: what a commit must pass'
	@echo 'make bench   compare with nbdkit, qemu-nbd, go-nbd, tgt and gotgt'
	@echo 'make conformance  libiscsi'"'"'s tests of iSCSI targets, ours beside tgt'
	@echo 'make fuzz    every fuzz target for FUZZTIME ($(FUZZTIME)) each'
	@echo 'make build   bin/curve-nbd'
	@echo 'make deb     bin/curve-nbd_VERSION_ARCH.deb'
	@echo 'make install below PREFIX ($(PREFIX)), with systemd units and udev rule'
	@echo 'make gen     regenerate code from .proto files'
	@echo 'make clean   remove what was built (not ./data)'

build:
	$(GO) build -o bin/ ./cmd/curve-nbd

deb:
	@scripts/deb.sh bin

install: build
	@scripts/install.sh --prefix '$(PREFIX)'

run:
	@scripts/deps.sh run
	@$(MAKE) --no-print-directory build
	@scripts/run.sh

test:
	@scripts/deps.sh test
	@TEST_TIMEOUT=$(TEST_TIMEOUT) scripts/test.sh

test-faults:
	@scripts/deps.sh test
	@scripts/test-faults.sh

test-kernel:
	@scripts/deps.sh test
	@CURVE_KERNEL_LONG=1 scripts/e2e-kernel.sh -t 3600
	@CURVE_KERNEL_LONG=1 scripts/e2e-kernel.sh -i -t 3600
	@CURVE_KERNEL_LONG=1 $(GO) test -count=1 -v -timeout 30m -run '^TestSystemd$$' ./cmd/curve-nbd/kerneltest
	@scripts/deps.sh qemu
	@PATH="$$PATH:/usr/sbin:/sbin" CURVE_KERNEL_LONG=1 CURVE_REQUIRE_TOOLS=1 $(GO) test -count=1 -v -timeout 30m -run '^TestQemuBootsFromAUnit$$' ./cmd/curve-nbd/e2e

check:
	@scripts/deps.sh check
	@scripts/check.sh

bench:
	@scripts/deps.sh bench
	@$(MAKE) --no-print-directory build
	@scripts/bench.sh

conformance:
	@scripts/iscsi-conformance.sh

fuzz:
	@FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

gen:
	@scripts/deps.sh check
	@scripts/gen.sh

clean:
	rm -rf bin .cache
	$(GO) clean -testcache
