package main

import (
	"errors"
	"log/slog"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
)

// openDevice opens what --device names. Auto takes the CPU where no card is usable, and says why.
func openDevice(c *config.Config, log *slog.Logger) (device.Device, error) {
	cpu := native.CPUOptions{Threads: c.StepThreads(), Exact: c.Exact}
	cuda := native.CUDAOptions{Library: c.CUDALib, Ordinal: c.GPU, Exact: c.Exact}
	switch c.Device {
	case "cpu":
		return native.OpenCPU(cpu)
	case "cuda":
		return native.OpenCUDA(cuda)
	}
	d, err := native.OpenCUDA(cuda)
	if errors.Is(err, device.ErrUnavailable) {
		log.Info("no CUDA device, running on the CPU", "reason", err)
		return native.OpenCPU(cpu)
	}
	return d, err
}
