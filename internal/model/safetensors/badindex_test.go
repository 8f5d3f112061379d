package safetensors

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

func TestBadIndexesTakeNoMemory(t *testing.T) {
	manyShards := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"t%d":"%d.safetensors",`, i, i)
		}
		return `{"weight_map":{` + strings.TrimSuffix(b.String(), ",") + `}}`
	}
	shard := func(name string) string { return fmt.Sprintf(`{"weight_map":{"a":%q}}`, name) }
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "the text ends"},
		{"an array", "[]", "an array, want an object"},
		{"null", "null", "null, want an object"},
		{"rest", `{"weight_map":{"a":"1.safetensors"}}x`, "text after the value"},
		{"map twice", `{"weight_map":{"a":"1.safetensors"},"weight_map":{}}`, `duplicate key "weight_map"`},
		{"an empty map", `{"weight_map":{}}`, "names no tensor"},
		{"map null", `{"weight_map":null}`, "weight_map: offset"},
		{"metadata a text", `{"metadata":"x","weight_map":{"a":"1.safetensors"}}`, "metadata: offset"},
		{"a size of two numbers", `{"metadata":{"total_size":1,"total_size":2}}`, "duplicate key"},
		{"a size that is no number", `{"metadata":{"total_size":NaN}}`, "metadata: total_size"},
		{"a shard of null", `{"weight_map":{"a":null}}`, "weight_map: a"},
		{"a shard of a list", `{"weight_map":{"a":["1.safetensors"]}}`, "weight_map: a"},
		{"no shard", shard(""), "is no shard"},
		{"a shard two levels up", shard("../../etc/passwd.safetensors"), "is no shard"},
		{"a shard above by a detour", shard("x/../../1.safetensors"), "is no shard"},
		{"a shard with a backslash", shard(`..\1.safetensors`), "is no shard"},
		{"the directory itself", shard("."), "is no shard"},
		{"the extension alone", shard("safetensors"), "is no shard"},
		{"an absolute shard", shard("/1.safetensors"), "is no shard"},
		{"a shard by a URL", shard("https://example.org/1.safetensors"), "is no shard"},
		{"a shard of a megabyte", shard(strings.Repeat("x", 1<<20)), "is no shard"},
		{"1001 shards", manyShards(MaxShards + 1), "more than 1000 shards"},
		{"deep metadata", `{"metadata":{"x":` + strings.Repeat("[", 1<<20), "nested deeper than 64"},
		{"deep map", `{"weight_map":` + strings.Repeat(`{"a":`, 200_000), "weight_map: a"},
		{"bad UTF-8", "{\"weight_map\":{\"a\xff\":\"1.safetensors\"}}", "invalid UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := parseIndex([]byte(c.text))
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 1<<10 || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %.300v, want a short one that says %q", err, c.want)
			}
			if took, most := after.TotalAlloc-before.TotalAlloc, uint64(64<<10+32*len(c.text)); took > most {
				t.Errorf("%d bytes took %d bytes of memory, want at most %d", len(c.text), took, most)
			}
		})
	}
}
