package tokenizer

// fakeMetadata is the key-values of a GGUF file in memory: string, bool, uint64, []string, []int32, []float32.
type fakeMetadata map[string]any

func value[T any](m fakeMetadata, key string) (T, bool) {
	v, ok := m[key].(T)
	return v, ok
}

func (m fakeMetadata) Has(key string) bool                 { return m[key] != nil }
func (m fakeMetadata) String(key string) (string, bool)    { return value[string](m, key) }
func (m fakeMetadata) Bool(key string) (bool, bool)        { return value[bool](m, key) }
func (m fakeMetadata) Uint(key string) (uint64, bool)      { return value[uint64](m, key) }
func (m fakeMetadata) Strings(key string) ([]string, bool) { return value[[]string](m, key) }
func (m fakeMetadata) Ints(key string) ([]int32, bool)     { return value[[]int32](m, key) }
func (m fakeMetadata) Floats(key string) ([]float32, bool) { return value[[]float32](m, key) }
