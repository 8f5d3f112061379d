package etcd

import (
	"context"
	"log/slog"

	"go.uber.org/zap/zapcore"
)

// logCore hands what the etcd client logs to slog. All of it is for debugging: each failure comes back as an error, and is told of once,
// while the client warns of every try.
type logCore struct{ log *slog.Logger }

func (c logCore) Enabled(level zapcore.Level) bool {
	return level > zapcore.DebugLevel && c.log.Enabled(context.Background(), slog.LevelDebug)
}

// With drops the fields: the client sets none that is of use here.
func (c logCore) With([]zapcore.Field) zapcore.Core { return c }

func (c logCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

func (c logCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(values)
	}
	attributes := make([]any, 0, 2*len(values.Fields))
	for name, value := range values.Fields {
		attributes = append(attributes, name, value)
	}
	c.log.Debug("etcd client: "+e.Message, attributes...)
	return nil
}

func (logCore) Sync() error { return nil }
