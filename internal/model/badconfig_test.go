package model_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/inferno-serve/inferno/internal/model"
)

// refusesText calls parse with bad texts: each error is the documented one, short and of one line, and the memory in proportion to the text.
func refusesText(t *testing.T, parse func([]byte) error, rows [][2]string) {
	t.Helper()
	for _, row := range rows {
		t.Run(fmt.Sprintf("%.60s", row[0]), func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := parse([]byte(row[0]))
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), row[1]) {
				t.Fatalf("error %.300v, want one that says %q", err, row[1])
			}
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 4<<10 {
				t.Errorf("an error of %d bytes, or of more than a line: %.300q", len(err.Error()), err)
			}
			if took, most := after.TotalAlloc-before.TotalAlloc, uint64(128<<10+128*len(row[0])); took > most {
				t.Errorf("%d bytes took %d bytes of memory, want at most %d", len(row[0]), took, most)
			}
		})
	}
}

func TestBadConfigsTakeNoMemory(t *testing.T) {
	const most = 1<<20 - 2000 // bytes of a value in a file of the limit
	parse := func(data []byte) error {
		_, err := model.ParseConfig(data)
		return err
	}
	rows := [][2]string{
		{"\ufeff" + good, "offset 0"}, {"\xff\xfe{\x00", "invalid UTF-8"}, {"{\"model_type\":\"llama\xff\"}", "invalid UTF-8"},
		{`{"model_type":"\ud800"}`, "surrogate"},
		{good + good, "text after the value"}, {good + "\x00", "text after the value"}, {good[:len(good)-1], "no ','"},
		{strings.Repeat("[", most), "nested deeper than 64"},
		{strings.Repeat(`{"a":`, most/5), "nested deeper than 64"}, {`"` + strings.Repeat("x", most) + `"`, "a string, want an object"},
		{"[" + strings.TrimSuffix(strings.Repeat("[],", most/3), ",") + "]", "more than 131072 values"},
		{`{"model_type":"` + strings.Repeat("x", most) + `"}`, "unsupported architecture"},
		{with(t, strings.Repeat("k", most), "1"), "unknown key"}, {with(t, "hidden_size", strings.Repeat("9", most)), "hidden_size: "},
		{with(t, "hidden_size", "["+strings.TrimSuffix(strings.Repeat("1,", most/2), ",")+"]"), "more than 131072 values"},
		{with(t, "eos_token_id", "["+strings.TrimSuffix(strings.Repeat("1,", most/2), ",")+",-1]"), "more than 131072 values"},
		{with(t, "eos_token_id", "["+strings.TrimSuffix(strings.Repeat("1,", 1025), ",")+"]"), "eos_token_id: 1025 token ids, want at most 1024"},
		{with(t, "eos_token_id", `{"id":2}`), "want a token id"},
		{with(t, "hidden_size", "6.4e1"), "hidden_size: 6.4e1, want an integer"},
		{with(t, "hidden_size", "-0"), "hidden_size: -0, want an integer"}, {with(t, "hidden_size", "064"), "malformed number"},
		{with(t, "hidden_size", "0x40"), "no ','"},
		{with(t, "hidden_size", "+64"), "where a value should be"}, {with(t, "hidden_size", "Infinity"), "where a value should be"},
		{with(t, "hidden_size", "true"), "hidden_size: true, want an integer"}, {with(t, "hidden_size", "[64]"), "hidden_size: [64], want"},
		{with(t, "hidden_size", "1048577"), "want an integer from 1 to 1048576"},
		{with(t, "intermediate_size", "0"), "intermediate_size: 0, want"}, {with(t, "intermediate_size", "-1"), "intermediate_size: -1, want"},
		{with(t, "intermediate_size", "2097152"), "want an integer from 1 to 1048576"},
		{with(t, "num_hidden_layers", "0"), "num_hidden_layers: 0, want"},
		{with(t, "num_hidden_layers", "1025"), "want an integer from 1 to 1024"},
		{with(t, "num_attention_heads", "-4"), "num_attention_heads: -4, want"},
		{with(t, "num_attention_heads", "4097"), "want an integer from 1 to 4096"},
		{with(t, "num_key_value_heads", "0"), "num_key_value_heads: 0, want"},
		{with(t, "num_key_value_heads", "8"), "4 heads, want a multiple of the 8"}, {with(t, "head_dim", "0"), "head_dim: 0, want"},
		{with(t, "head_dim", "1025"), "want an integer from 1 to 1024"}, {with(t, "head_dim", "1"), "head dimension 1, want an even"},
		{with(t, "vocab_size", "0"), "vocab_size: 0, want"}, {with(t, "vocab_size", "16777217"), "want an integer from 1 to 16777216"},
		{with(t, "vocab_size", "9223372036854775808"), "vocab_size: 9223372036854775808, want"},
		{with(t, "vocab_size", "2"), "end token 2, want less"},
		{with(t, "max_position_embeddings", "0"), "max_position_embeddings: 0, want"},
		{with(t, "max_position_embeddings", "16777217"), "want an integer from 1 to 16777216"},
		{with(t, "max_position_embeddings", "512.0"), "want an integer"},
		{with(t, "rms_norm_eps", "-1e-5"), "rms_norm_eps: -1e-5, want"}, {with(t, "rms_norm_eps", "1e-400"), "rms_norm_eps: 1e-400, want"},
		{with(t, "rms_norm_eps", "1.5"), "rms_norm_eps: 1.5, want"}, {with(t, "rms_norm_eps", `"1e-5"`), `rms_norm_eps: "1e-5", want a number`},
		{with(t, "tie_word_embeddings", "1"), "tie_word_embeddings: 1, want true or false"},
		{with(t, "mlp_bias", `"false"`), `mlp_bias: "false", want`}, {with(t, "bos_token_id", "-1"), "bos_token_id: -1, want a token id"},
		{with(t, "bos_token_id", "1.0"), "bos_token_id: 1.0, want a token id"},
		{with(t, "eos_token_id", "16777216"), "want a token id"}, {with(t, "architectures", `"LlamaForCausalLM"`), "architectures: "},
		{with(t, "architectures", `["LlamaForCausalLM","Evil"]`), "architectures: "},
		{with(t, "hidden_act", "5"), "hidden_act: 5 is not supported"},
		{with(t, "rope_parameters", "[]"), "rope_parameters: [], want an object"},
		{with(t, "rope_parameters", `{"rope_type":"linear","factor":"2"}`), `rope_parameters.factor: "2", want a number`},
		{with(t, "rope_parameters", `{"rope_type":"linear","factor":1e7}`), "rope_parameters.factor: 1e7, want"},
		{with(t, "rope_parameters", `{"rope_type":"linear","factor":0.5}`), "rope_parameters.factor: 0.5, want"},
		{with(t, "rope_parameters", `{"rope_type":"default","rope_theta":-10000}`), "rope_theta: -10000, want"},
		{with(t, "rope_parameters", `{"rope_type":"default","rope_theta":1e16}`), "rope_theta: 1e16, want"},
		{with(t, "rope_parameters", `{"rope_type":5}`), "rope_parameters.rope_type: 5, want a text"},
		{with(t, "rope_parameters",
			`{"rope_type":"llama3","factor":8,"low_freq_factor":0,"high_freq_factor":4,"original_max_position_embeddings":32}`),
			"low_freq_factor: 0, want"},
		{with(t, "rope_parameters", `{"rope_type":"yarn","factor":8,"truncate":"no"}`), `truncate: "no", want true or false`},
		{with(t, "rope_parameters", `{"rope_type":"yarn","factor":8,"beta_fast":-1}`), "beta_fast: -1, want"},
		{with(t, "rope_parameters", `{"rope_type":"yarn","factor":8,"attention_factor":0}`), "attention_factor: 0, want"},
		{with(t, "rope_parameters", strings.Repeat(`{"rope_parameters":`, 100)), "nested deeper than 64"},
	}
	refusesText(t, parse, rows)
	if err := parse([]byte(good)); err != nil {
		t.Errorf("a good one after them: %v", err)
	}
}

func TestBadGenerationConfigsTakeNoMemory(t *testing.T) {
	parse := func(data []byte) error {
		_, err := model.ParseGenerationConfig(data)
		return err
	}
	refusesText(t, parse, [][2]string{
		{"", "the text ends"}, {"null", "null, want an object"}, {"{", "offset"}, {"{}{}", "text after the value"},
		{"{\"a\":\"\xff\"}", "invalid UTF-8"}, {`{"a":` + strings.Repeat("[", 1<<19), "nested deeper than 64"},
		{strings.Repeat(" ", 1<<20+1), "want at most 1048576"}, {`{"temperature":-0.1}`, "temperature: -0.1, want a number from 0 to 100"},
		{`{"temperature":101}`, "temperature: 101, want"}, {`{"temperature":1e999}`, "temperature: 1e999, want"},
		{`{"temperature":NaN}`, "temperature: offset"},
		{`{"temperature":[1]}`, "temperature: [1], want"}, {`{"temperature":true}`, "temperature: true, want"},
		{`{"top_k":-1}`, "top_k: -1, want"}, {`{"top_k":2147483648}`, "top_k: 2147483648, want"}, {`{"top_k":50.5}`, "top_k: 50.5, want"},
		{`{"top_k":"50"}`, `top_k: "50", want`},
		{`{"top_p":-1}`, "top_p: -1, want"}, {`{"top_p":1.0001}`, "top_p: 1.0001, want"}, {`{"min_p":2}`, "min_p: 2, want"},
		{`{"min_p":-0.5}`, "min_p: -0.5, want"}, {`{"repetition_penalty":-1}`, "repetition_penalty: -1, want"},
		{`{"repetition_penalty":101}`, "repetition_penalty: 101, want"},
		{`{"do_sample":"yes"}`, `do_sample: "yes", want`}, {`{"eos_token_id":-1}`, "eos_token_id: -1, want"},
		{`{"eos_token_id":[1,"2"]}`, "eos_token_id: "}, {`{"eos_token_id":[[1]]}`, "eos_token_id: "},
		{`{"eos_token_id":1.5}`, "eos_token_id: 1.5, want"},
		{`{"eos_token_id":99999999999999999999}`, "eos_token_id: "}, {`{"top_p":0.5,"top_p":1}`, `duplicate key "top_p"`},
		{`{"temperature":` + strings.Repeat("1", 1<<19) + `}`, "temperature: "},
		{`{"eos_token_id":[` + strings.TrimSuffix(strings.Repeat("1,", 1<<18), ",") + `]}`, "more than 131072 values"},
		{`{"temperature":-1,"top_p":2,"top_k":-1}`, "top_p: 2"},
	})
}

// TestDivisorsOfZeroAreRefused: head counts of 0 and dimensions that are missing made other servers divide by zero, or load for ever.
// CVE-2024-8063; Ollama #7802.
func TestDivisorsOfZeroAreRefused(t *testing.T) {
	for _, key := range []string{"hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers", "head_dim", "vocab_size",
		"intermediate_size", "max_position_embeddings"} {
		for _, value := range []string{"0", "-0", "0.0", "-1", "null", `""`, "[]", "{}", "false"} {
			if c, err := model.ParseConfig([]byte(with(t, key, value))); value != "null" && err == nil || err == nil && c.Heads%c.KVHeads != 0 {
				t.Errorf("%s of %s is accepted as %+v", key, value, c)
			} else if err != nil && !strings.Contains(err.Error(), key+": ") {
				t.Errorf("%s of %s: error %q does not name it", key, value, err)
			}
		}
	}
	embedding := f32Tensor("token_embd.weight", 3, 64)
	for _, key := range []string{
		"llama.embedding_length", "llama.attention.head_count", "llama.attention.head_count_kv", "llama.block_count", "llama.feed_forward_length",
		"llama.context_length", "llama.rope.dimension_count", "llama.vocab_size",
	} {
		for _, value := range []any{uint32(0), int32(0), int32(-1), uint64(1 << 63), uint64(1<<64 - 1), float32(1), "1", true, []uint32{1}} {
			if c, err := parseGGUF(t, ggufWith(key, value), embedding); err == nil || !strings.Contains(err.Error(), key+": ") {
				t.Errorf("%s of %T %v: %+v, %v; want it refused by name", key, value, value, c, err)
			}
		}
	}
}

// TestCodeOfModelsIsNeverRun: what names Python files is known, says nothing here, and touches no file. CVE-2026-22807, CVE-2026-27893.
func TestCodeOfModelsIsNeverRun(t *testing.T) {
	for _, value := range []string{`{"AutoConfig":"evil.Config"}`, `{"AutoModelForCausalLM":"https://example.org/x--evil.Model"}`, `null`,
		`"evil"`} {
		if _, err := model.ParseConfig([]byte(with(t, "auto_map", value))); err != nil {
			t.Errorf("auto_map of %s: %v", value, err)
		}
	}
	for _, key := range []string{"trust_remote_code", "custom_pipelines", "quantization_config"} {
		if _, err := model.ParseConfig([]byte(with(t, key, `{"x":"evil.py"}`))); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v, want it refused by name", key, err)
		}
	}
}

// TestModelFilesLieInTheirDirectory: links that lead out of it, pipes that nobody writes to, and devices without an end. CVE-2024-45436,
// CVE-2024-37032, CVE-2026-103663.
func TestModelFilesLieInTheirDirectory(t *testing.T) {
	outside, err := filepath.Abs(filepath.Join("testdata", "llama"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config.json", "generation_config.json", "model.safetensors"} {
		for _, c := range []struct {
			want string
			make func(path string) error
		}{
			{"escapes", func(path string) error { return os.Symlink(filepath.Join(outside, "config.json"), path) }},
			{"escapes", func(path string) error { return os.Symlink("/dev/zero", path) }},
			{"escapes", func(path string) error { return os.Symlink("../../../../../../../../../../etc/passwd", path) }},
			{"leads to nothing", func(path string) error { return os.Symlink("none", path) }},
			{"not a regular file", func(path string) error { return syscall.Mkfifo(path, 0o600) }},
			{"not a regular file", func(path string) error { return os.Mkdir(path, 0o700) }},
		} {
			dir := copyCheckpoint(t, unchanged, nil)
			path := filepath.Join(dir, name)
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			if got, err := model.Open(dir); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v, %v; want it to say %q", name, got, err, c.want)
			}
		}
	}
}

// TestAModelOfAHubCacheOpens: the cache of the Hugging Face hub keeps a model's files as links to its blobs.
func TestAModelOfAHubCacheOpens(t *testing.T) {
	repository := filepath.Join(t.TempDir(), "models--org--tiny")
	blobs, snapshot := filepath.Join(repository, "blobs"), filepath.Join(repository, "snapshots", "0123abcd")
	for _, dir := range []string{blobs, snapshot} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	plain := copyCheckpoint(t, unchanged, nil)
	files, err := os.ReadDir(plain)
	if err != nil {
		t.Fatal(err)
	}
	for i, file := range files {
		blob := fmt.Sprintf("%040x", i)
		if err := os.Rename(filepath.Join(plain, file.Name()), filepath.Join(blobs, blob)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join("..", "..", "blobs", blob), filepath.Join(snapshot, file.Name())); err != nil {
			t.Fatal(err)
		}
	}
	if c := openCheckpoint(t, snapshot); c.Config.Dim == 0 || c.Tensor("model.embed_tokens.weight") == nil {
		t.Errorf("opened as %+v", c.Config)
	}
}

func FuzzParseGenerationConfig(f *testing.F) {
	f.Add([]byte(`{"eos_token_id":[2,3],"temperature":0.6,"top_k":50,"top_p":0.9,"min_p":0,"repetition_penalty":1.1,"do_sample":true}`))
	f.Add([]byte(`{"eos_token_id":2,"top_k":null,"x":{"y":[1e5]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := model.ParseGenerationConfig(data)
		if err != nil {
			return
		}
		for name, v := range map[string]*float64{"temperature": d.Temperature, "top_p": d.TopP, "min_p": d.MinP,
			"repetition_penalty": d.RepetitionPenalty} {
			if v != nil && !(*v >= 0 && *v <= 100) {
				t.Fatalf("%q: %s is %v", data, name, *v)
			}
		}
		for _, id := range d.EOS {
			if id < 0 {
				t.Fatalf("%q: end token %d", data, id)
			}
		}
	})
}
