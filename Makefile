# Everything that a developer or CI runs. `make` alone lists the targets; `make -j2` is safe.
# Files are rebuilt only when what they are made of has changed; the Go programs always go through `go build`, which knows better than make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

export CGO_ENABLED := 1

VERSION := $(shell scripts/version)
# -buildvcs=false: the version is stamped here, and go's own look at git fails in a tree that belongs to another user.
# No -trimpath: with it every package would be compiled twice, once for `make build` and once for `go test`.
GO_BUILD := go build -buildvcs=false -ldflags "-X main.version=$(VERSION)"

ADDR ?= 127.0.0.1:50051
ADMIN_ADDR ?= 127.0.0.1:9090
FUZZTIME ?= 30s
SOAKTIME ?= 10m
BENCH_FLAGS ?=
CUDA_ARCHS ?= 90a
export ADDR ADMIN_ADDR FUZZTIME SOAKTIME

.PHONY: help build inferno-server inferno run test unit lint format proto bench soak fuzz tools model cuda cuda-faults gpu-bundle clean prerequisites \
	release reproducible image-smoke

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile
	@echo "Settings (make TARGET NAME=VALUE): ADDR ADMIN_ADDR MODEL=NAME=PATH SERVER_FLAGS BENCH_FLAGS SOAKTIME FUZZTIME CUDA_ARCHS"

build: inferno-server inferno ## build bin/inferno-server and bin/inferno

inferno-server inferno: | prerequisites
	$(GO_BUILD) -o bin/$@ ./cmd/$@

release: | prerequisites ## build bin/release: what is shipped, with licences and bill of materials; the same sources give the same bytes
	@scripts/release bin/release

reproducible: | prerequisites ## build what is shipped a second time, elsewhere, from what the image's build sees, and compare every byte (minutes)
	@scripts/reproducible

image-smoke: release ## run the image, or what is in it, as production does: without rights, shell or a file to write
	@scripts/image-smoke || test $$? = 77

cuda: | prerequisites ## build bin/libinferno_cuda.so for CUDA_ARCHS (default 90a; no card needed); fetches the compiler, once
	@$(MAKE) -C kernels/cuda CUDA="$$(scripts/fetch-cuda)" CUDA_ARCHS="$(CUDA_ARCHS)" OUT=$(CURDIR)/bin/libinferno_cuda.so

# Never shipped: only tests of what a server does with a card that fails use it.
cuda-faults: cuda ## build bin/cuda-faults/libinferno_cuda.so, which goes wrong when a test tells it to
	@$(MAKE) -C kernels/cuda CUDA="$$(scripts/fetch-cuda)" CUDA_ARCHS="$(CUDA_ARCHS)" FAULTS_OUT=$(CURDIR)/bin/cuda-faults/libinferno_cuda.so faults

gpu-bundle: build cuda cuda-faults ## gather in bin/gpu-bundle what run-gpu-tests needs on a host with a card and without Go
	@scripts/gpu-bundle

run: build bin/tools/grpcurl bin/tools/grpc-health-probe ## serve the default model (MODEL=NAME=PATH for another) and print three lines to try
	@exec scripts/serve

test: lint build release cuda-faults tools ## lint, build (all of kernels/cuda too), every test, unit and integration, and each fuzz target for 10 s; fetches the default model
	@INFERNO_SMOLLM2="$$(scripts/fetch-model)" scripts/test
	@scripts/image-smoke || test $$? = 77
	@FUZZTIME=10s scripts/fuzz

unit: bin/tools/gotestsum ## the tests that need no model, server or network
	@scripts/test -short

lint: tools ## formatting, vet, linters, proto, generated code, C style, the import table
	@scripts/lint

format: bin/tools/buf bin/tools/clang-format ## rewrite Go, proto and C files in the project's format
	@gofmt -s -w .
	@bin/tools/buf format -w
	@bin/tools/clang-format -i $$(find kernels -name '*.[ch]' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

proto: bin/tools/buf ## regenerate the Go code of proto/
	bin/tools/buf generate

bench: build bin/tools/grpc-health-probe ## serve the default model and measure it with `inferno bench` (BENCH_FLAGS)
	@scripts/serve bin/inferno bench --addr $(ADDR) --metrics $(ADMIN_ADDR) --model "$$(name='$(MODEL)'; name=$${name%%=*}; echo "$${name:-smollm2}")" $(BENCH_FLAGS)

soak: build bin/tools/grpc-health-probe bin/tools/etcd ## the scheduler, a server and the registry held to docs/reliability.md in full (two hours), and the default model under random load for SOAKTIME
	INFERNO_SCHEDULER_STEPS=1500000 go test -count=1 -run RandomSteps ./internal/engine
	INFERNO_SMOLLM2="$$(scripts/fetch-model)" SOAK=full go test -count=1 -timeout 30m -v ./internal/soak
	SOAK=full go test -count=1 -v ./internal/backend -run Race
	@scripts/serve scripts/soak
	@PATH="$$PWD/bin/tools:$$PATH" go test -count=1 -v -timeout 2h ./internal/discovery/etcd -args -soak
	@PATH="$$PWD/bin/tools:$$PATH" go test -count=1 -v -timeout 1h ./client ./cmd/inferno-server -run 'Weight|Hostile|StopServing|Rolling|KilledInstance|StandsStill|Drain|EtcdThatGoes|ModelUnloaded' -args -soak

fuzz: | prerequisites ## run every fuzz target for FUZZTIME
	@scripts/fuzz

model: | prerequisites ## fetch the default model and print its path
	@scripts/fetch-model

clean: ## remove what was built (the model's cache stays)
	rm -rf bin

prerequisites:
	@scripts/prerequisites

# The tools: each is built from the versions of tools/go.mod, and again when those change.
GO_TOOLS := buf etcd golangci-lint gotestsum grpcurl grpc-health-probe
bin/tools/buf: package := github.com/bufbuild/buf/cmd/buf
bin/tools/etcd: package := go.etcd.io/etcd/server/v3
bin/tools/golangci-lint: package := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
bin/tools/gotestsum: package := gotest.tools/gotestsum
bin/tools/grpcurl: package := github.com/fullstorydev/grpcurl/cmd/grpcurl
bin/tools/grpc-health-probe: package := github.com/grpc-ecosystem/grpc-health-probe

tools: $(GO_TOOLS:%=bin/tools/%) bin/tools/clang-format ## build the developer's tools into bin/tools (minutes, once)

$(GO_TOOLS:%=bin/tools/%): tools/go.mod tools/go.sum | prerequisites
	@echo "building $@ (once)"
	@go build -C tools -buildvcs=false -o ../$@ $(package)
	@touch $@

# A wheel with one program in it. --target needs neither venv nor a Python that lets pip change it.
bin/tools/clang-format: tools/clang-format.txt | prerequisites
	@echo "fetching $@ (once)"
	@mkdir -p bin/tools
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install --quiet --no-input --no-deps --no-compile \
		--only-binary=:all: --require-hashes --target "$$folder" --requirement $<; \
	install -m 755 "$$folder/clang_format/data/bin/clang-format" $@
