package safetensors

import "testing"

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":12.0},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		ix, err := parseIndex(data)
		if err != nil {
			return
		}
		if len(ix.shards()) == 0 {
			t.Fatalf("accepted %q, which names no shard", data)
		}
		for _, shard := range ix.shards() {
			if err := checkShardName(shard); err != nil {
				t.Fatalf("accepted %q: %v", data, err)
			}
		}
	})
}
