// Package telemetry sets up what a server tells of itself: logs and metrics, and the admin listener that serves them. Collectors read
// counters that the parts keep anyway; nothing here is called on the path of a token.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
)

// NewLogger writes lines of level and above to w, as text or json. What it returns beside the logger changes the level at any time.
func NewLogger(w io.Writer, format, level string) (*slog.Logger, *slog.LevelVar, error) {
	var least slog.LevelVar
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, nil, err
	}
	options := &slog.HandlerOptions{Level: &least}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, options)), &least, nil
	}
	return slog.New(slog.NewTextHandler(w, options)), &least, nil
}

// levels are those that may be asked for; slog itself takes more, such as INFO+2.
var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

// maxLevelText is more than the longest name of a level, in bytes.
const maxLevelText = 16

// levelHandler tells the level of the log, and sets it where the method is PUT and the body its name. A browser sends no PUT to another
// origin without asking first, which is refused here.
func levelHandler(level *slog.LevelVar, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			text, err := io.ReadAll(io.LimitReader(r.Body, maxLevelText))
			name := strings.ToLower(strings.TrimSpace(string(text)))
			to, known := levels[name]
			if err != nil || !known {
				http.Error(w, fmt.Sprintf("log level: %q, want debug, info, warn or error", name), http.StatusBadRequest)
				return
			}
			if from := level.Level(); from != to {
				log.Warn("log level changed", "from", strings.ToLower(from.String()), "to", name)
				level.Set(to)
			}
		}
		fmt.Fprintln(w, strings.ToLower(level.Level().String()))
	})
}
