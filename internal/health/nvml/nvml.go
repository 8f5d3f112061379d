// Package nvml reads an NVIDIA card and hears its events through the driver's management library, which is opened at run time and need not
// be there. It holds the library from Open to Close; the calls are health.GPU's.
//
// The library's own binding leaves its symbols to the loader: a call of one that is missing would end the process. So nothing is called
// before Init succeeded, and nothing that has not been looked up. For the same reason the program must be linked and started with lazy
// binding: LD_BIND_NOW, or -z now, ends it before main.
package nvml

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/inferno-serve/inferno/internal/health"
)

// ErrAbsent means that there is no driver, no card, or no way to tell which card is meant.
var ErrAbsent = errors.New("no card to watch")

// Options say which card is meant.
type Options struct {
	Ordinal int    // as CUDA counts
	Visible string // CUDA_VISIBLE_DEVICES
	Order   string // CUDA_DEVICE_ORDER
	Library string // path; "": the system's libnvidia-ml.so.1
}

// events that are asked for, where the card has them.
const events = nvml.EventTypeXidCriticalError | nvml.EventTypeFatalPoisonError | nvml.EventTypeGpuUnavailableError

// Clocks that are lowered by heat or by the supply of power. A cap on power that software sets is everyday life.
var throttles = []struct {
	bit  uint64
	name string
}{
	{nvml.ClocksThrottleReasonHwThermalSlowdown, "heat (hardware)"},
	{nvml.ClocksEventReasonSwThermalSlowdown, "heat (driver)"},
	{nvml.ClocksThrottleReasonHwPowerBrakeSlowdown, "power brake"},
}

// Card is a card of this host.
type Card struct {
	library nvml.Interface
	device  nvml.Device
	set     nvml.EventSet // nil: the driver has no events
	has     map[string]bool
	fixed   health.Reading // what of it does not change
}

// required are the functions without which nothing can be told.
var required = []string{
	"nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetName", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo",
	"nvmlErrorString", // which printing a result calls
}

// optional are those that some drivers, or cards, do without.
var optional = []string{
	"nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureThreshold", "nvmlDeviceGetCurrentClocksThrottleReasons",
	"nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetFieldValues",
	"nvmlEventSetCreate", "nvmlEventSetWait_v2", "nvmlEventSetFree", "nvmlDeviceRegisterEvents", "nvmlDeviceGetSupportedEventTypes",
}

// Open finds the card. The error wraps ErrAbsent where there is none to watch.
func Open(o Options) (*Card, error) {
	var options []nvml.LibraryOption
	if o.Library != "" {
		options = append(options, nvml.WithLibraryPath(o.Library))
	}
	library := nvml.New(options...)
	if r := library.Init(); r != nvml.SUCCESS {
		return nil, fmt.Errorf("%w: %s", ErrAbsent, describe(r)) // the library's own words may not be there to be asked for
	}
	c := &Card{library: library, has: map[string]bool{}}
	if err := c.open(o); err != nil {
		_ = library.Shutdown()
		return nil, err
	}
	return c, nil
}

// describe knows the results that Init may have where there is no library to ask.
func describe(r nvml.Return) string {
	switch r {
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		return "libnvidia-ml.so.1 is not there: no driver, or one whose tools were not mounted"
	case nvml.ERROR_DRIVER_NOT_LOADED:
		return "the driver is not loaded"
	case nvml.ERROR_NO_PERMISSION:
		return "no permission to talk to the driver"
	}
	return fmt.Sprintf("the driver's management library fails with %d", int(r))
}

func (c *Card) open(o Options) error {
	for _, name := range required {
		if err := c.library.Extensions().LookupSymbol(name); err != nil {
			return fmt.Errorf("%w: the driver's management library has no %s", ErrAbsent, name)
		}
	}
	for _, name := range optional {
		c.has[name] = c.library.Extensions().LookupSymbol(name) == nil
	}
	index, err := c.find(o)
	if err != nil {
		return err
	}
	device, r := c.library.DeviceGetHandleByIndex(index)
	if r != nvml.SUCCESS {
		return fmt.Errorf("%w: card %d: %s", ErrAbsent, index, r.Error())
	}
	c.device = device
	c.fixed.Name, _ = device.GetName()
	c.fixed.UUID, _ = device.GetUUID()
	if c.has["nvmlDeviceGetTemperatureThreshold"] {
		if t, r := device.GetTemperatureThreshold(nvml.TEMPERATURE_THRESHOLD_SLOWDOWN); r == nvml.SUCCESS {
			c.fixed.Slowdown = int(t)
		}
	}
	return c.subscribe()
}

// find turns CUDA's number of a card into the driver's.
func (c *Card) find(o Options) (int, error) {
	count, r := c.library.DeviceGetCount()
	if r != nvml.SUCCESS || count == 0 {
		return 0, fmt.Errorf("%w: the driver has none (%s)", ErrAbsent, r.Error())
	}
	cards := make([]card, count)
	for i := range cards {
		device, r := c.library.DeviceGetHandleByIndex(i)
		if r != nvml.SUCCESS {
			return 0, fmt.Errorf("%w: card %d: %s", ErrAbsent, i, r.Error())
		}
		cards[i].name, _ = device.GetName()
		cards[i].uuid, _ = device.GetUUID()
	}
	return choose(cards, o)
}

// card is what tells cards apart.
type card struct{ name, uuid string }

// choose is the index of the card that CUDA calls o.Ordinal. CUDA counts the visible ones, the fastest first unless it is told to count as
// the driver does; among cards of one kind the two are the same.
func choose(cards []card, o Options) (int, error) {
	wanted, listed := fmt.Sprint(o.Ordinal), strings.Split(o.Visible, ",")
	if o.Visible != "" {
		if o.Ordinal >= len(listed) {
			return 0, fmt.Errorf("%w: CUDA_VISIBLE_DEVICES %q has no card %d", ErrAbsent, o.Visible, o.Ordinal)
		}
		wanted = strings.TrimSpace(listed[o.Ordinal])
	}
	if strings.HasPrefix(wanted, "GPU-") {
		found := -1
		for i, c := range cards {
			if strings.HasPrefix(c.uuid, wanted) && found < 0 {
				found = i
			}
		}
		if found < 0 {
			return 0, fmt.Errorf("%w: the driver has no card %s", ErrAbsent, wanted)
		}
		return found, nil
	}
	var index int
	if _, err := fmt.Sscanf(wanted, "%d", &index); err != nil || fmt.Sprint(index) != wanted {
		return 0, fmt.Errorf("%w: CUDA_VISIBLE_DEVICES names %q, want a number or GPU-UUID", ErrAbsent, wanted)
	}
	if index < 0 || index >= len(cards) {
		return 0, fmt.Errorf("%w: card %d of %d", ErrAbsent, index, len(cards))
	}
	for _, c := range cards {
		if c.name != cards[0].name && o.Order != "PCI_BUS_ID" {
			return 0, fmt.Errorf("%w: cards of several kinds, which CUDA counts its own way: set CUDA_DEVICE_ORDER=PCI_BUS_ID", ErrAbsent)
		}
	}
	return index, nil
}

// subscribe asks for the card's events. A driver without them is watched by readings alone.
func (c *Card) subscribe() error {
	for _, name := range []string{
		"nvmlEventSetCreate", "nvmlEventSetWait_v2", "nvmlEventSetFree", "nvmlDeviceRegisterEvents", "nvmlDeviceGetSupportedEventTypes",
	} {
		if !c.has[name] {
			return nil
		}
	}
	supported, r := c.device.GetSupportedEventTypes()
	if r != nvml.SUCCESS || supported&events == 0 {
		return nil
	}
	set, r := c.library.EventSetCreate()
	if r != nvml.SUCCESS {
		return fmt.Errorf("%w: events: %s", ErrAbsent, r.Error())
	}
	if r := c.device.RegisterEvents(supported&events, set); r != nvml.SUCCESS {
		_ = set.Free()
		return nil
	}
	c.set = set
	return nil
}

// Wait implements health.Card.
func (c *Card) Wait(limit time.Duration) (health.CardEvent, bool, error) {
	if c.set == nil {
		time.Sleep(limit)
		return health.CardEvent{}, false, nil
	}
	data, r := c.set.Wait(uint32(limit.Milliseconds()))
	switch r {
	case nvml.SUCCESS:
	case nvml.ERROR_TIMEOUT:
		return health.CardEvent{}, false, nil
	default:
		return health.CardEvent{}, false, failure("events", r)
	}
	switch data.EventType {
	case nvml.EventTypeXidCriticalError:
		return health.CardEvent{XID: int(data.EventData)}, true, nil
	case nvml.EventTypeFatalPoisonError:
		return health.CardEvent{Kind: "fatal memory poison"}, true, nil
	case nvml.EventTypeGpuUnavailableError:
		return health.CardEvent{Kind: "the card is unavailable"}, true, nil
	}
	return health.CardEvent{}, false, nil
}

// Read implements health.Card.
func (c *Card) Read() (health.Reading, error) {
	r := c.fixed
	memory, result := c.device.GetMemoryInfo()
	if result != nvml.SUCCESS {
		return r, failure("memory", result)
	}
	r.TotalBytes, r.UsedBytes, r.OthersBytes = int64(memory.Total), int64(memory.Used), -1
	if c.has["nvmlDeviceGetTemperature"] {
		if t, result := c.device.GetTemperature(nvml.TEMPERATURE_GPU); result == nvml.SUCCESS {
			r.Temperature = int(t)
		}
	}
	if c.has["nvmlDeviceGetCurrentClocksThrottleReasons"] {
		reasons, _ := c.device.GetCurrentClocksThrottleReasons() // 0 where it fails
		for _, t := range throttles {
			if reasons&t.bit != 0 {
				r.Throttled = append(r.Throttled, t.name)
			}
		}
	}
	if c.has["nvmlDeviceGetTotalEccErrors"] {
		r.Corrected, _ = c.device.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC)
		r.Uncorrected, _ = c.device.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
	}
	if c.has["nvmlDeviceGetRemappedRows"] {
		_, _, r.RemapPending, r.RemapFailed, _ = c.device.GetRemappedRows()
	}
	if c.has["nvmlDeviceGetComputeRunningProcesses"] {
		r.OthersBytes = c.others()
	}
	if c.has["nvmlDeviceGetFieldValues"] {
		r.Recovery = c.recovery()
	}
	return r, nil
}

// others is what other processes hold, −1 where this process is not among those that the driver names: then nobody knows whose they are.
func (c *Card) others() int64 {
	processes, result := c.device.GetComputeRunningProcesses()
	if result != nvml.SUCCESS {
		return -1
	}
	var sum int64
	known := false
	for _, p := range processes {
		if int(p.Pid) == os.Getpid() {
			known = true
		} else if p.UsedGpuMemory < 1<<62 { // all bits are set where the driver may not say
			sum += int64(p.UsedGpuMemory)
		}
	}
	if !known {
		return -1
	}
	return sum
}

func (c *Card) recovery() health.Recovery {
	values := []nvml.FieldValue{{FieldId: nvml.FI_DEV_GET_GPU_RECOVERY_ACTION}}
	if c.device.GetFieldValues(values) != nvml.SUCCESS || nvml.Return(values[0].NvmlReturn) != nvml.SUCCESS {
		return health.RecoveryNone
	}
	return health.Recovery(binary.LittleEndian.Uint32(values[0].Value[:4]))
}

// failure is the error of a call; a card that has fallen off the bus is lost.
func failure(what string, r nvml.Return) error {
	switch r {
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED:
		return fmt.Errorf("%w: %s: %s", health.ErrCardLost, what, r.Error())
	}
	return fmt.Errorf("%s: %s", what, r.Error())
}

// Close gives the library back.
func (c *Card) Close() {
	if c.set != nil {
		_ = c.set.Free()
	}
	_ = c.library.Shutdown()
}
