package telemetry

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestAdminPages(t *testing.T) {
	var out bytes.Buffer
	log, level, err := NewLogger(&out, "text", "info")
	if err != nil {
		t.Fatal(err)
	}
	ready, alive := true, true
	h := Admin{
		Metrics: prometheus.NewRegistry(), Level: level, Log: log,
		Ready: func() bool { return ready }, Alive: func() bool { return alive },
	}.handler()
	want := func(method, path, body string, code int, text string) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		if w.Code != code || !strings.Contains(w.Body.String(), text) {
			t.Errorf("%s %s %q: %d %q, want %d %q", method, path, body, w.Code, w.Body, code, text)
		}
	}
	want("GET", "/readyz", "", http.StatusOK, "yes")
	want("GET", "/livez", "", http.StatusOK, "yes")
	ready = false
	want("GET", "/readyz", "", http.StatusServiceUnavailable, "no")
	want("GET", "/livez", "", http.StatusOK, "yes")
	alive = false
	want("GET", "/livez", "", http.StatusServiceUnavailable, "no")

	want("GET", "/log/level", "", http.StatusOK, "info\n")
	log.Debug("one")
	want("PUT", "/log/level", "debug\n", http.StatusOK, "debug\n")
	log.Debug("two")
	want("PUT", "/log/level", "WARN", http.StatusOK, "warn\n")
	log.Info("three")
	for _, bad := range []string{"", "loud", "info+2", "5", strings.Repeat("debug", 1000)} {
		want("PUT", "/log/level", bad, http.StatusBadRequest, "want debug, info, warn or error")
	}
	want("GET", "/log/level", "", http.StatusOK, "warn\n")
	want("POST", "/log/level", "debug", http.StatusMethodNotAllowed, "")
	want("OPTIONS", "/log/level", "", http.StatusMethodNotAllowed, "") // what a browser asks before it lets a page send a PUT
	said := out.String()
	if strings.Contains(said, "one") || !strings.Contains(said, "two") || strings.Contains(said, "three") ||
		strings.Count(said, "log level changed") != 2 {
		t.Errorf("logged:\n%s", said)
	}
}
