package main_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/auth/authtest"
	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
	"github.com/inferno-serve/inferno/internal/health"
	"github.com/inferno-serve/inferno/internal/telemetry"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// everything is what a server tells that has all it can have: a registry, certificates, callers it knows and a card. The card is a fake.
func everything(t *testing.T) scraped {
	t.Helper()
	s := readScrape(secureMetrics(t))
	card := readScrape(cardMetrics(t))
	maps.Copy(s.kinds, card.kinds)
	maps.Copy(s.labels, card.labels)
	return s
}

// secureMetrics are those of a server in etcd that speaks TLS, knows callers and has refused one.
func secureMetrics(t *testing.T) string {
	t.Helper()
	c := etcdtest.Start(t, 1)
	authority := authtest.NewAuthority(t, "servers")
	dir := t.TempDir()
	cert, key := authority.Server().Files(t, dir)
	access := filepath.Join(dir, "access.yaml")
	authtest.Write(t, access, []byte("anonymous: {roles: [read, health]}\n"))
	p := startInstance(t, c, "--tls-cert", cert, "--tls-key", key, "--access-file", access)
	p.waitSaid("instance registered")

	known := x509.NewCertPool()
	known.AppendCertsFromPEM(authority.PEM)
	trust := &tls.Config{RootCAs: known, MinVersion: tls.VersionTLS13}
	conn, err := grpc.NewClient(p.grpc, grpc.WithTransportCredentials(credentials.NewTLS(trust)), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer nobody's")
	_, err = infernov1.NewRegistryServiceClient(conn).ListModels(ctx, &infernov1.ListModelsRequest{})
	if status.Code(err) != codes.Unauthenticated {
		t.Fatalf("%v, want UNAUTHENTICATED", err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trust}}
	defer client.CloseIdleConnections()
	return get(t, client, "https://"+p.admin+"/metrics")
}

func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v %v", url, response.Status, err)
	}
	return string(text)
}

// aCard can be read.
type aCard struct{}

func (aCard) Read() (health.Reading, error) { return health.Reading{Name: "card", UUID: "GPU-0"}, nil }
func (aCard) Close()                        {}

func (aCard) Wait(limit time.Duration) (health.CardEvent, bool, error) {
	time.Sleep(limit) // none comes
	return health.CardEvent{}, false, nil
}

// cardMetrics are those of a watched card, once it has been read.
func cardMetrics(t *testing.T) string {
	t.Helper()
	gpu := health.NewGPU(health.GPUOptions{Card: aCard{}, Log: slog.New(slog.DiscardHandler)})
	registry := prometheus.NewRegistry()
	telemetry.NewGPU(registry, gpu)
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- gpu.Run(ctx) }()
	page := ""
	for began := time.Now(); !strings.Contains(page, "inferno_gpu_xid_total"); time.Sleep(time.Millisecond) {
		w := httptest.NewRecorder()
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		page = w.Body.String()
		if time.Since(began) > time.Minute {
			t.Fatal("the card has not been read within a minute")
		}
	}
	end()
	if err := <-ended; err != nil {
		t.Error(fmt.Errorf("the card: %w", err))
	}
	return page
}
