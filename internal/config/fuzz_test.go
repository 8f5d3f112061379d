package config

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
)

// FuzzFile reads arbitrary bytes as a configuration file. What is accepted is settings that were checked, and says the same when read again.
func FuzzFile(f *testing.F) {
	for _, text := range []string{
		"model: {a: b}\ndevice: cpu\nthreads: 2\n", "model: [a=b, c=d]\nkv-memory: 64MiB\n",
		`{"model":"a=b","drain-timeout":"5s","reflection":false}`,
		"x: &a [1]\nmodel: *a\n", "--- \n...\n", "threads: 1\n---\n", "? [a]\n: b\n", "model: !!binary YT1i\n", "a: &a {b: *a}\n",
		"<<: {model: a=b}\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := parseFile("test.yaml", bytes.NewReader(data))
		if err != nil {
			if !strings.Contains(err.Error(), "configuration file test.yaml") {
				t.Fatalf("error %q does not name the file", err)
			}
			return
		}
		read := func() (*Config, error) {
			c, unknown, err := parse(program{name: "test", serves: true}, nil, "v", io.Discard, parsed)
			if err == nil && unknown == nil {
				err = c.Validate()
			}
			return c, err
		}
		c, err := read()
		if err != nil {
			return
		}
		again, err := read()
		if err != nil || !slices.Equal(c.Models, again.Models) || c.Listen != again.Listen || len(c.Models) == 0 || c.MaxQueue < 1 {
			t.Fatalf("%q is read as %+v, and then as %+v, %v", data, c, again, err)
		}
	})
}
