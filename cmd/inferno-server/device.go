package main

import (
	"errors"
	"log/slog"
	"os"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/health"
	"github.com/inferno-serve/inferno/internal/health/nvml"
)

func cpuOptions(c *config.Config) native.CPUOptions {
	return native.CPUOptions{Threads: c.StepThreads(), Exact: c.Exact}
}

func cudaOptions(c *config.Config) native.CUDAOptions {
	return native.CUDAOptions{Library: c.CUDALib, Ordinal: c.GPU, Exact: c.Exact}
}

// openDevice opens what --device names. Auto takes the CPU where no card is usable, and says why.
func openDevice(c *config.Config, log *slog.Logger) (device.Device, error) {
	switch c.Device {
	case "cpu":
		return native.OpenCPU(cpuOptions(c))
	case "cuda":
		return native.OpenCUDA(cudaOptions(c))
	}
	d, err := native.OpenCUDA(cudaOptions(c))
	if errors.Is(err, device.ErrUnavailable) {
		log.Info("no CUDA device, running on the CPU", "reason", err)
		return native.OpenCPU(cpuOptions(c))
	}
	return d, err
}

// openCard is nil where no card is meant to be used.
func openCard(c *config.Config) func() (health.Card, error) {
	if c.Device == "cpu" {
		return nil
	}
	return func() (health.Card, error) {
		card, err := nvml.Open(nvml.Options{
			Ordinal: c.GPU, Visible: os.Getenv("CUDA_VISIBLE_DEVICES"), Order: os.Getenv("CUDA_DEVICE_ORDER"),
		})
		if err != nil {
			return nil, err
		}
		return card, nil
	}
}
