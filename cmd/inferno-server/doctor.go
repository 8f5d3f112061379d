package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/inferno-serve/inferno/internal/backend"
	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
)

// doctor prints what serving would run on, and whether the models given fit. The exit code is 0, or 2 where something cannot be served.
func doctor(args []string) int {
	c, err := config.LoadDoctor(args, version, os.Stdout)
	if errors.Is(err, config.ErrExit) {
		return 0
	}
	if err != nil {
		return report(exitUsage, err)
	}
	runtime.LockOSThread() // which drives the device
	defer runtime.UnlockOSThread()
	healthy, err := examine(c, os.Stdout)
	if err != nil {
		return report(exitUsage, err)
	}
	if !healthy {
		return exitUsage
	}
	return 0
}

// examine prints a row a fact. It is false where a device or a model asked for cannot be used.
func examine(c *config.Config, out io.Writer) (healthy bool, err error) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer func() { err = errors.Join(err, w.Flush()) }()
	row := func(what, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", what, fmt.Sprintf(format, args...)) }

	row("program", "inferno-server %s, %s/%s, %d processors", version, runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	d, unavailable, err := tryDevice(c)
	if unavailable != nil {
		row("cuda", "unavailable: %v", unavailable)
	}
	if err != nil || d == nil {
		return false, err
	}
	defer d.Close()
	if err := describe(row, c, d); err != nil {
		return false, err
	}
	healthy = true
	for _, f := range backend.Fits(context.Background(), c, d, architectures) {
		if f.Err != nil {
			healthy = false
			row("model "+f.Name, "%v", f.Err)
			continue
		}
		row("model "+f.Name, "fits: weights %s, activations and inputs %s, keys and values of %d tokens %s; a request has at most %d tokens",
			short(f.Weights), short(f.Remainder), f.KVTokens, short(f.KV), f.Context)
	}
	return healthy, nil
}

// tryDevice opens the device that a server would. unavailable is why that is not a card, where one was looked for; d is nil where the
// configuration takes nothing else.
func tryDevice(c *config.Config) (d device.Device, unavailable, err error) {
	if c.Device != "cpu" {
		d, unavailable = native.OpenCUDA(cudaOptions(c))
		if unavailable == nil || c.Device == "cuda" {
			return d, unavailable, nil
		}
	}
	d, err = native.OpenCPU(cpuOptions(c))
	return d, unavailable, err
}

func describe(row func(what, format string, args ...any), c *config.Config, d device.Device) error {
	i := d.Info()
	row("device", "%s: %s (%s)", i.Kind, i.Name, i.Features)
	if i.Library != "" {
		row("library", "%s, table %d", i.Library, i.Table)
		row("versions", "CUDA %s of the driver, %s of the library", i.Driver, i.Runtime)
		row("memory", "%s free of %s; --gpu-memory-utilization %v allows %s", short(i.FreeBytes), short(i.TotalBytes), c.GPUUtilization,
			short(int64(c.GPUUtilization*float64(i.TotalBytes))))
	} else {
		row("threads", "%d a step", i.Threads)
		row("memory", "%s free of %s", short(i.FreeBytes), short(i.TotalBytes))
	}
	inside, err := measureMemory(d)
	if err != nil {
		return fmt.Errorf("measure memory: %w", err)
	}
	row("bandwidth", "%.1f GB/s in the device's memory (two reads, one write)", inside)
	if i.Unified {
		return nil
	}
	link, err := measureLink(d)
	if err != nil {
		return fmt.Errorf("measure the link: %w", err)
	}
	row("link", "%.1f GB/s from page-locked host memory, one thread, packed", link)
	return nil
}

const (
	measuredRuns  = 7        // of which the median counts
	hostMeasured  = 64 << 20 // bytes of each of three operands on the CPU: beyond its caches
	cardMeasured  = 1 << 30  // and on a card
	linkDimension = 4096     // of a square F32 matrix: 64 MiB
)

// measureMemory adds two large vectors, in GB/s of what is read and written.
func measureMemory(d device.Device) (float64, error) {
	i := d.Info()
	bytes := int64(cardMeasured)
	if i.Unified {
		bytes = hostMeasured
	}
	bytes = min(bytes, i.FreeBytes/8) / 4096 * 4096
	if bytes == 0 {
		return 0, device.ErrOutOfMemory
	}
	p, err := d.Alloc(3 * bytes)
	if err != nil {
		return 0, err
	}
	defer d.Free(p)
	d.Fill(p, 1, 3*bytes) // which touches the pages
	operand := func(n int64) device.Tensor {
		return device.Matrix(p+device.Ptr(n*bytes), i.Activations, int(bytes/4096), 4096/i.Activations.Size())
	}
	return median(3*bytes, func() error {
		d.Add(operand(0), operand(1), operand(2))
		return d.Sync()
	})
}

// measureLink packs a matrix from the memory that loads use, in GB/s.
func measureLink(d device.Device) (float64, error) {
	w := device.Weight{DType: device.F32, Rows: linkDimension, Cols: linkDimension}
	p, err := d.Alloc(d.PackBytes(w.DType, w.Rows, w.Cols))
	if err != nil {
		return 0, err
	}
	defer d.Free(p)
	w.Data = p
	rows, err := d.AllocHost(4 * linkDimension * linkDimension)
	if err != nil {
		return 0, err
	}
	defer d.FreeHost(rows)
	clear(rows)
	return median(int64(len(rows)), func() error { return d.Pack(w, rows, nil) })
}

// median is the rate of the middle one of several runs, after one that does not count.
func median(bytes int64, run func() error) (float64, error) {
	var rates []float64
	for range 1 + measuredRuns {
		began := time.Now()
		if err := run(); err != nil {
			return 0, err
		}
		rates = append(rates, float64(bytes)/1e9/time.Since(began).Seconds())
	}
	rates = rates[1:]
	slices.Sort(rates)
	return rates[len(rates)/2], nil
}

func short(bytes int64) string { return config.Bytes(bytes).Short() }
