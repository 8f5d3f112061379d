package config

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// companions are variables of the project's own scripts and tests, which may be set where a server is started.
var companions = []string{
	"INFERNO_SMOLLM2", "INFERNO_FIXTURES", "INFERNO_CACHE", "INFERNO_CUDA", "INFERNO_CUDA_LIBRARY", "INFERNO_LOAD_FOLDER",
	"INFERNO_CUDA_FAULT", "INFERNO_CUDA_FAULTS_LIBRARY", "INFERNO_SERVER", "INFERNO_SERVER_PID",
	"INFERNO_TOKEN", "INFERNO_SWAP_TIME", "INFERNO_ABUSE",
}

// What Kubernetes puts into a pod beside a Service whose name begins with inferno. A name that ends in PORT alone could be a misspelt
// listen; that of a Service holds a URL.
var (
	serviceVariable = regexp.MustCompile(`_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?$`)
	serviceURL      = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

// unknownVariables refuses a variable that looks like a setting and is none: it would be misspelt, and have no effect.
func unknownVariables(app *kong.Application) error {
	known := slices.Clone(companions)
	for _, flag := range app.Flags {
		known = append(known, flag.Envs...)
	}
	var faults []error
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		ofService := serviceVariable.MatchString(name) || strings.HasSuffix(name, "_PORT") && serviceURL.MatchString(value)
		if strings.HasPrefix(name, "INFERNO_") && !slices.Contains(known, name) && !ofService {
			faults = append(faults, fmt.Errorf("environment: unknown variable %s", name))
		}
	}
	return errors.Join(faults...)
}

func lookUp(names []string) (value string, set bool) {
	for _, name := range names {
		if value, set = os.LookupEnv(name); set {
			return value, true
		}
	}
	return "", false
}

// splitModels is the list in a variable, which, other than a flag, cannot be repeated.
func splitModels(value string) []any {
	list := []any{}
	for _, entry := range strings.FieldsFunc(value, func(r rune) bool { return r == ';' || r == '\n' }) {
		if entry = strings.TrimSpace(entry); entry != "" {
			list = append(list, entry)
		}
	}
	return list
}
