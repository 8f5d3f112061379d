//go:build !linux

package engine

import "time"

func pause(d time.Duration) { time.Sleep(d) }

func sharpenPauses() {}
