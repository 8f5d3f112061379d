// Package telemetry sets up what a server tells of itself: logs and metrics, and the admin listener that serves them. Collectors read
// counters that the parts keep anyway; nothing here is called on the path of a token.
package telemetry

import (
	"io"
	"log/slog"
)

// NewLogger writes lines of level and above to w, as text or json.
func NewLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, err
	}
	options := &slog.HandlerOptions{Level: least}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return slog.New(slog.NewTextHandler(w, options)), nil
}
