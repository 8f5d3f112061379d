# The server and the tool in a small image without a shell. Two targets:
#
#   docker build --build-arg VERSION="$(scripts/version)" -t inferno .                        # the CPU alone
#   docker build --build-arg VERSION="$(scripts/version)" --target cuda -t inferno:cuda .     # and CUDA cards, by the host's driver
#
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges -p 127.0.0.1:50051:50051 -v /path/to/models:/models:ro \
#     inferno --listen 0.0.0.0:50051 --insecure --model NAME=/models/FILE.gguf
#
# --insecure is for a port that this host alone reaches, as here; docs/security.md has what others take: --tls-cert, --tls-key, --access-file.
#
# scripts/image-smoke runs what is built here under these flags. The base images have to be pinned by digest by whoever publishes a build.

FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
# cgo compiles kernels/cpu with the image's gcc; the kernels for each instruction set are all in it and are chosen at run time.
RUN VERSION="$VERSION" scripts/release /out

# No card and no driver is needed to compile: the compiler comes from tools/cuda.txt, each wheel by its hash.
FROM build AS build-cuda
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip
ARG CUDA_ARCHS=90a
RUN make -C kernels/cuda CUDA="$(scripts/fetch-cuda)" CUDA_ARCHS="$CUDA_ARCHS" OUT=/out/lib/inferno/libinferno_cuda.so \
 && scripts/sbom /out

# glibc of the build's release and nothing else: no shell, no package manager. Not static: the CUDA library is opened at run time.
FROM gcr.io/distroless/base-nossl-debian12 AS base
# A user with no name and no rights. Any other id works as well (--user): nothing is written.
USER 10001:10001
VOLUME /models
# gRPC, and /metrics with pprof. Both are on loopback unless --listen and --admin-listen say otherwise.
EXPOSE 50051 9090
# Exit status 0 only while the server says SERVING, or DEGRADED; loading a large model takes longer than a small one, hence the start period.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 CMD ["/usr/local/bin/inferno", "health", "--addr", "127.0.0.1:50051"]
# SIGTERM drains: give `docker stop --time` longer than --drain-delay and --drain-timeout together.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/inferno-server"]

FROM base AS cuda
# What the host's container toolkit puts in: the driver's libraries, and nvidia-smi's for readings of the card.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /out/ /usr/local/

# The last stage is what a build without --target makes.
FROM base AS cpu
COPY --from=build /out/ /usr/local/
