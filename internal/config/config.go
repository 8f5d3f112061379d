// Package config is what a server is told: one struct with its defaults and units, read from flags, the environment, a file and those
// defaults, in this order of precedence. Nothing else in the server reads flags or the environment.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Config is the configuration of inferno-server. The tags are the flags; the environment variable of --max-batch is INFERNO_MAX_BATCH,
// its key in a configuration file max-batch. An INFERNO_ variable or a key that is no setting is a fault. What is tagged serve concerns the
// services alone: other commands take it from the environment and the file, which they share with a server, but not as a flag.
type Config struct {
	File string `name:"config" placeholder:"FILE" help:"YAML or JSON file of these settings, keys as the flags are named."`

	Models     []Model  `name:"model" sep:"none" placeholder:"NAME=PATH" help:"Model to serve: a Hugging Face directory or a GGUF file. Repeatable; the variable holds several, separated by semicolons or newlines."`
	ModelRoots []string `name:"model-root" sep:":" placeholder:"DIR" help:"Folder below which LoadModel finds models on the running server. Repeatable, or several separated by colons. With one, no --model is needed." serve:""`
	MaxModels  int      `name:"max-models" default:"0" help:"Most models held at once. To load one more, a model that is not pinned and has no requests is unloaded, the one used least recently; 0 means as many as memory holds. On a CUDA card, --kv-memory auto leaves an equal share to each model that may still come." serve:""`
	Device     string   `default:"auto" help:"Where models run: auto, cpu or cuda. Auto takes a CUDA card where one is usable."`
	GPU        int      `name:"gpu" default:"0" help:"Which CUDA card."`
	CUDALib    string   `name:"cuda-library" placeholder:"FILE" help:"Path of libinferno_cuda.so; found beside the program or in ../lib/inferno when not given."`
	Threads    int      `default:"0" help:"CPU threads of a step, for each model; 0 means one a core."`
	Exact      bool     `help:"Multiply quantised weights by float32 activations and keep keys and values in float32: slower, closer to the checkpoint."`
	DType      string   `name:"dtype" default:"auto" help:"Type that unquantised weights are kept in: auto (as stored), f32, f16 or bf16."`
	Format     string   `name:"load-format" default:"auto" help:"Where weights come from: auto (the checkpoint's files) or random (numbers made from its config.json alone, for measurements; token ids only)."`

	Context        int `default:"0" help:"Most tokens of one request, prompt and output together; 0 means the model's own limit, as far as KV memory holds one such request."`
	MaxBatch       int `default:"0" help:"Most requests in one step; 0 means 64 on a CPU, 256 on a CUDA card, and fewer where --max-batch-tokens leaves no room for so many."`
	MaxBatchTokens int `default:"0" help:"Most tokens in one step, at least --max-batch + 16; 0 means as many as take about 250 ms, measured."`
	MaxQueue       int `default:"256" help:"Most requests that wait; more are refused with RESOURCE_EXHAUSTED."`
	MaxQueueTokens int `default:"1048576" help:"Most tokens of the prompts that wait; what would be more is refused unless nothing waits."`

	TargetITL     time.Duration `name:"target-itl" default:"50ms" help:"Time between two tokens of a request that prompts of others may take it to, measured; 0s: no such bound."`
	SpeculateUpTo int           `default:"4" placeholder:"N" help:"Requests that ask for speculation guess tokens while at most so many requests run and none waits; 0: never."`
	MaxQueueWait  time.Duration `default:"1m" help:"Longest that a request may be expected to wait, as measured while others do; then more are refused."`

	PrefixCache    bool      `name:"prefix-cache" default:"true" negatable:"" help:"Keep keys and values of earlier requests, while there is room, for prompts that start alike."`
	KVMemory       AutoBytes `name:"kv-memory" default:"auto" help:"Memory for cached keys and values, for each model. Auto is 1GiB on the CPU; on a CUDA card it is what --gpu-memory-utilization leaves beside the weights, in equal shares where there are several models."`
	GPUUtilization float64   `name:"gpu-memory-utilization" default:"0.9" help:"Most of a CUDA card's memory that this server takes, as a fraction of all of it."`

	Listen       string        `default:"127.0.0.1:50051" help:"Address of the gRPC services: HOST:PORT or unix:///PATH." serve:""`
	AdminListen  string        `default:"127.0.0.1:9090" help:"Address of /metrics and /debug/pprof; empty for none." serve:""`
	SendTimeout  time.Duration `default:"30s" help:"Time that a client may leave what was sent to it unread before its request ends." serve:""`
	Reflection   bool          `default:"true" negatable:"" help:"Serve gRPC reflection." serve:""`
	DrainDelay   time.Duration `default:"0s" help:"Time between saying NOT_SERVING and refusing requests at a stop, for load balancers to notice." serve:""`
	DrainTimeout time.Duration `default:"30s" help:"Time that running requests have to finish at a stop." serve:""`
	MetricNames  string        `name:"metrics-compat" default:"none" help:"Names that /metrics has beside its own: none or vllm, which the Kubernetes gateway for inference reads." serve:""`

	TLSCert       string `name:"tls-cert" placeholder:"FILE" help:"PEM certificate of this server and its chain; with it and --tls-key both listeners speak TLS alone." serve:""`
	TLSKey        string `name:"tls-key" placeholder:"FILE" help:"PEM private key of --tls-cert, for its owner and group alone." serve:""`
	TLSClientCA   string `name:"tls-client-ca" placeholder:"FILE" help:"PEM certificates of the authorities that vouch for clients; with it clients have to show a certificate." serve:""`
	TLSClientAuth string `name:"tls-client-auth" default:"require" help:"Whether clients have to show a certificate where there is --tls-client-ca: require or optional." serve:""`
	TLSMinVersion string `name:"tls-min-version" default:"1.3" help:"Oldest TLS that is spoken: 1.2 or 1.3." serve:""`
	AccessFile    string `name:"access-file" placeholder:"FILE" help:"YAML or JSON file of who may call what: tokens, certificates, signed tokens, roles and limits. Without it everybody who can connect may do everything." serve:""`
	Insecure      bool   `help:"Listen beyond this host in plain text, or without asking who calls." serve:""`

	MaxConnections        int `default:"4096" help:"Most connections at a time; more are closed at once." serve:""`
	MaxAddressConnections int `name:"max-address-connections" default:"0" help:"Most connections at a time from one address; 0 means --max-connections." serve:""`

	InstanceID string `name:"instance-id" placeholder:"ID" help:"Name of this instance in the registry; a random one for each start when not given." serve:""`
	Advertise  string `placeholder:"ADDRESS" help:"Address that other hosts reach this instance by; the listen address when not given, with the host's own in place of 0.0.0.0 or ::." serve:""`

	EtcdEndpoints    []string      `name:"etcd-endpoints" placeholder:"ADDRESS,..." help:"etcd servers that hold the registry: HOST:PORT, http://HOST:PORT or https://HOST:PORT. Without any, the registry is this process's memory." serve:""`
	EtcdPrefix       string        `default:"inferno/v1" help:"What the registry's keys in etcd begin with." serve:""`
	EtcdUser         string        `placeholder:"NAME" help:"User of etcd." serve:""`
	EtcdPasswordFile string        `placeholder:"FILE" help:"File with that user's password." serve:""`
	EtcdTokenFile    string        `placeholder:"FILE" help:"File with a JSON web token for etcd, in place of user and password." serve:""`
	EtcdCA           string        `name:"etcd-ca" placeholder:"FILE" help:"PEM certificates that etcd's must be signed by; the system's when not given." serve:""`
	EtcdCert         string        `placeholder:"FILE" help:"PEM certificate to show to etcd." serve:""`
	EtcdKey          string        `placeholder:"FILE" help:"PEM key of that certificate." serve:""`
	LeaseTTL         time.Duration `name:"lease-ttl" default:"10s" help:"How long an instance that was killed stays in the registry; whole seconds." serve:""`
	RequireEtcd      bool          `help:"Do not start while etcd does not answer. Without this the server serves, and registers once etcd is there." serve:""`

	OTLPEndpoint string  `name:"otlp-endpoint" placeholder:"URL" help:"Where traces go, by OTLP over gRPC: http://HOST:PORT or https://HOST:PORT. None without it." serve:""`
	TraceRatio   float64 `default:"1" help:"Fraction of the requests that are traced, of those whose caller has not decided that." serve:""`

	LogFormat string `default:"text" help:"Log lines as text or json."`
	LogLevel  string `default:"info" help:"Least level logged: debug, info, warn or error."`
}

// Model is a model to serve.
type Model struct {
	Name string // what requests call it
	Path string // a Hugging Face directory or a GGUF file
}

// UnmarshalText reads NAME=PATH. What is missing is left empty, for Validate to report beside the other faults.
func (m *Model) UnmarshalText(text []byte) error {
	m.Name, m.Path, _ = strings.Cut(string(text), "=")
	return nil
}

// DefaultGPUUtilization is --gpu-memory-utilization where it is not given.
const DefaultGPUUtilization = 0.9

// MaxModelName is the longest name of a model, in bytes.
const MaxModelName = 128

// Validate reports every fault at once. A server to which models can come needs none at its start.
func (c *Config) Validate() error {
	if len(c.Models) == 0 && len(c.ModelRoots) == 0 {
		return errors.Join(errors.New("model: none given, want at least one NAME=PATH"), c.validateSettings())
	}
	return c.validateSettings()
}

// validateSettings is Validate where models are optional.
func (c *Config) validateSettings() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	seen := map[string]bool{}
	for _, m := range c.Models {
		if m.Name == "" || m.Path == "" {
			fault("model: %q without %s, want NAME=PATH", m.Name+m.Path, missingPart(m))
			continue
		}
		if !validName(m.Name) {
			fault("model: name %q: want 1 to %d characters of A-Z a-z 0-9 . _ : / -", m.Name, MaxModelName)
		}
		if seen[m.Name] {
			fault("model: name %q is given twice", m.Name)
		}
		seen[m.Name] = true
	}
	for _, root := range c.ModelRoots {
		if root == "" {
			fault("model-root: is empty, want a folder")
		}
	}
	within(fault, "max-models", c.MaxModels, 0, 1024)
	if c.MaxModels > 0 && len(c.Models) > c.MaxModels {
		fault("max-models: %d, want at least %d, the models given", c.MaxModels, len(c.Models))
	}
	if c.MaxModels > 0 && len(c.ModelRoots) == 0 {
		fault("max-models: %d has no effect without model-root", c.MaxModels)
	}
	oneOf(fault, "dtype", c.DType, auto, "f32", "f16", "bf16")
	oneOf(fault, "load-format", c.Format, auto, "random")
	oneOf(fault, "metrics-compat", c.MetricNames, "none", "vllm")
	oneOf(fault, "log-format", c.LogFormat, "text", "json")
	oneOf(fault, "log-level", c.LogLevel, "debug", "info", "warn", "error")
	c.validateDevice(fault)
	within(fault, "threads", c.Threads, 0, 256)
	within(fault, "context", c.Context, 0, 1<<24)
	within(fault, "max-batch", c.MaxBatch, 0, 4096)
	c.validateStepTokens(fault)
	if c.TargetITL < 0 || c.TargetITL > time.Minute {
		fault("target-itl: %v, want 0s to 1m", c.TargetITL)
	}
	within(fault, "speculate-up-to", c.SpeculateUpTo, 0, 4096)
	within(fault, "max-queue", c.MaxQueue, 1, 1<<20)
	within(fault, "max-queue-tokens", c.MaxQueueTokens, 1, MaxQueueTokens)
	if c.MaxQueueWait <= 0 || c.SendTimeout <= 0 {
		fault("max-queue-wait, send-timeout: %v, %v, want more than 0", c.MaxQueueWait, c.SendTimeout)
	}
	if c.KVMemory != 0 && c.KVMemory < 1<<20 {
		fault("kv-memory: %v, want at least 1MiB, or auto", c.KVMemory)
	}
	if !(c.GPUUtilization > 0 && c.GPUUtilization <= 1) {
		fault("gpu-memory-utilization: %v, want more than 0 and at most 1", c.GPUUtilization)
	}
	if c.DrainTimeout < 0 || c.DrainDelay < 0 {
		fault("drain-timeout, drain-delay: %v, %v, want 0 or more", c.DrainTimeout, c.DrainDelay)
	}
	c.validateTraces(fault)
	addressOrSocket(fault, "listen", c.Listen)
	if c.AdminListen != "" {
		address(fault, "admin-listen", c.AdminListen)
	}
	c.validateSecurity(fault)
	if c.Advertise != "" {
		addressOrSocket(fault, "advertise", c.Advertise)
	}
	if c.InstanceID != "" && !validName(c.InstanceID) {
		fault("instance-id: %q, want 1 to %d characters of A-Z a-z 0-9 . _ : / -", c.InstanceID, MaxModelName)
	}
	c.validateEtcd(fault)
	return errors.Join(faults...)
}

func (c *Config) validateTraces(fault func(string, ...any)) {
	if !(c.TraceRatio >= 0 && c.TraceRatio <= 1) {
		fault("trace-ratio: %v, want 0 to 1", c.TraceRatio)
	}
	if c.OTLPEndpoint == "" {
		return
	}
	u, err := url.Parse(c.OTLPEndpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" || u.Hostname() == "" || u.User != nil || u.Path != "" {
		fault("otlp-endpoint: want http://HOST:PORT or https://HOST:PORT") // what was given may hold a password
	}
}

// validateDevice refuses what would have no effect.
func (c *Config) validateDevice(fault func(string, ...any)) {
	oneOf(fault, "device", c.Device, auto, "cpu", "cuda")
	within(fault, "gpu", c.GPU, 0, 63)
	if c.Device != "cpu" {
		return
	}
	if c.GPU != 0 {
		fault("gpu: %d has no effect with device cpu, want device cuda or auto", c.GPU)
	}
	if c.GPUUtilization != DefaultGPUUtilization {
		fault("gpu-memory-utilization: %v has no effect with device cpu, want device cuda or auto", c.GPUUtilization)
	}
	if c.CUDALib != "" {
		fault("cuda-library: %q has no effect with device cpu, want device cuda or auto", c.CUDALib)
	}
}

// MaxQueueTokens is the most that --max-queue-tokens may be.
const MaxQueueTokens = 1 << 40

// PromptTokens are those of prompts that a step has room for beside a token of every running request.
const PromptTokens = 16

// validateStepTokens: with less, fewer requests would run at once than max-batch says.
func (c *Config) validateStepTokens(fault func(string, ...any)) {
	within(fault, "max-batch-tokens", c.MaxBatchTokens, 0, 1<<20)
	batch := max(c.MaxBatch, 1)
	if least := batch + PromptTokens; c.MaxBatchTokens > 0 && c.MaxBatchTokens < least {
		fault("max-batch-tokens: %d, want at least %d: a token for each of max-batch %d, and %d of a prompt",
			c.MaxBatchTokens, least, batch, PromptTokens)
	}
}

// maxSocketPath is the longest path of a Unix socket, in bytes: sun_path, less its end.
const maxSocketPath = 107

// SocketPath is the path of a "unix:///path" address; ok is false for any other.
func SocketPath(address string) (path string, ok bool) { return strings.CutPrefix(address, "unix://") }

// StepThreads is how many CPU threads a step uses.
func (c *Config) StepThreads() int {
	if c.Threads > 0 {
		return c.Threads
	}
	return runtime.GOMAXPROCS(0) // which respects the CPU limit of a container
}

func validName(name string) bool {
	if name == "" || len(name) > MaxModelName || strings.Contains(name, "..") {
		return false
	}
	return strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._:/-", r)
	}) < 0
}

func oneOf(fault func(string, ...any), key, value string, allowed ...string) {
	for _, a := range allowed {
		if value == a {
			return
		}
	}
	fault("%s: %q, want one of %s", key, value, strings.Join(allowed, ", "))
}

func within(fault func(string, ...any), key string, value, least, most int) {
	if value < least || value > most {
		fault("%s: %d, want %d to %d", key, value, least, most)
	}
}

func address(fault func(string, ...any), key, value string) {
	if _, _, err := net.SplitHostPort(value); err != nil {
		fault("%s: %q, want HOST:PORT", key, value)
	}
}

func addressOrSocket(fault func(string, ...any), key, value string) {
	path, ok := SocketPath(value)
	if !ok {
		if _, _, err := net.SplitHostPort(value); err != nil {
			fault("%s: %q, want HOST:PORT or unix:///PATH", key, value)
		}
		return
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" || len(path) > maxSocketPath || strings.ContainsRune(path, 0) {
		fault("%s: %q, want unix:// and a clean absolute path of at most %d bytes", key, value, maxSocketPath)
	}
}

func missingPart(m Model) string {
	if m.Name == "" {
		return "a name"
	}
	return "a path"
}
