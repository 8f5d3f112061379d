# The server and the tool in one small image. Build:  docker build --build-arg VERSION="$(git describe --tags --always)" -t inferno .
# Run:  docker run -p 127.0.0.1:50051:50051 -v /path/to/models:/models:ro inferno --listen 0.0.0.0:50051 --insecure --model NAME=/models/FILE.gguf
# --insecure is for a port that this host alone reaches, as here; docs/security.md has what others take: --tls-cert, --tls-key, --access-file.

FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
# cgo compiles kernels/cpu with the image's gcc; the kernels for each instruction set are all in it and are chosen at run time.
RUN CGO_ENABLED=1 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" -o /out/ ./cmd/inferno-server ./cmd/inferno

# The same glibc as in the build. Nothing is installed and no shell is needed. Not static: the CUDA library is opened at run time.
FROM debian:bookworm-slim
COPY --from=build /out/inferno-server /out/inferno /usr/local/bin/
COPY LICENSE /usr/share/doc/inferno/
# A user with no name and no rights; --user with another id works as well, nothing is written.
USER 10001:10001
VOLUME /models
# gRPC, and /metrics with pprof. Both are on loopback unless --listen and --admin-listen say otherwise.
EXPOSE 50051 9090
# Exit status 0 only while the server says SERVING; loading a large model takes longer than a small one, hence the start period.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 CMD ["/usr/local/bin/inferno", "health", "--addr", "127.0.0.1:50051"]
# SIGTERM drains: give `docker stop --time` longer than the server's drain deadline.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/inferno-server"]
