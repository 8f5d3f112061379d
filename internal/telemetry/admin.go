package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Admin is what the admin listener serves.
type Admin struct {
	Metrics prometheus.Gatherer
	Level   *slog.LevelVar                  // of the log; nil: it is not served
	Log     *slog.Logger                    // hears of changes of the level
	Ready   func() bool                     // whether requests are answered, and
	Alive   func() bool                     // whether the process is not to be restarted
	Guard   func(http.Handler) http.Handler // lets in those who may; nil: everybody
}

// Serve serves /metrics, /readyz, /livez, /log/level and /debug/pprof on l until ctx ends. A profile or scrape that runs then is cut off.
func (a Admin) Serve(ctx context.Context, l net.Listener) error {
	handler := a.handler()
	if a.Guard != nil {
		handler = a.Guard(handler)
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		// Handshakes of strangers that fail: noise, and as much of it as they like.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin listener %s: %w", l.Addr(), err)
	}
	return nil
}

func (a Admin) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.Metrics, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /readyz", verdictHandler(a.Ready))
	mux.HandleFunc("GET /livez", verdictHandler(a.Alive))
	if a.Level != nil {
		level := levelHandler(a.Level, a.Log)
		mux.Handle("GET /log/level", level)
		mux.Handle("PUT /log/level", level)
	}
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// verdictHandler is for probes: 200 or 503. Reasons are HealthService's to tell.
func verdictHandler(verdict func() bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if !verdict() {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "yes")
	}
}
