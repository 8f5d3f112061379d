package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// formCase is a constraint, and somebody else's judgement of its texts.
type formCase struct {
	name       string
	prompt     string
	constraint *infernov1.Constraint
	judge      func(text string) error
}

func formCases() []formCase {
	type person struct {
		Name *string  `json:"name"`
		Age  *int     `json:"age"`
		Tags []string `json:"tags"`
	}
	matches := func(pattern string) func(string) error {
		return func(text string) error {
			if !regexp.MustCompile(`\A(?:` + pattern + `)\z`).MatchString(text) {
				return fmt.Errorf("does not match %s", pattern)
			}
			return nil
		}
	}
	const date, choice = `(19|20)\d{2}-(0[1-9]|1[0-2])-\d{2}`, `(?:très|three|twenty-three|two) `
	const long = `((river|stone|cloud) ){30}` // so that it still runs when others need its blocks
	return []formCase{
		{
			"schema", "A person as JSON: ", &infernov1.Constraint{Form: &infernov1.Constraint_JsonSchema{JsonSchema: `{"type":"object","properties":{
				"name":{"type":"string","minLength":1,"maxLength":12},"age":{"type":"integer","minimum":0,"maximum":150},
				"tags":{"type":"array","items":{"enum":["kind","tall"]},"maxItems":2}},"required":["name","age","tags"],"additionalProperties":false}`}},
			func(text string) error {
				var p person
				d := json.NewDecoder(strings.NewReader(text))
				d.DisallowUnknownFields()
				switch err := d.Decode(&p); {
				case err != nil:
					return err
				case d.Decode(&p) != io.EOF:
					return fmt.Errorf("more than a value")
				case p.Name == nil || len([]rune(*p.Name)) < 1 || len([]rune(*p.Name)) > 12 || p.Age == nil || *p.Age < 0 || *p.Age > 150:
					return fmt.Errorf("is %v", p)
				case p.Tags == nil || len(p.Tags) > 2 || slices.ContainsFunc(p.Tags, func(s string) bool { return s != "kind" && s != "tall" }):
					return fmt.Errorf("has the tags %q", p.Tags)
				}
				return nil
			},
		},
		{
			"object", "The settings as JSON: ", &infernov1.Constraint{Form: &infernov1.Constraint_JsonObject{JsonObject: true}},
			func(text string) error {
				var object map[string]any
				return json.Unmarshal([]byte(text), &object)
			},
		},
		{
			"regex", "The war ended on ", &infernov1.Constraint{Form: &infernov1.Constraint_Regex{Regex: date}}, matches(date),
		},
		{
			"long", "Words: ", &infernov1.Constraint{Form: &infernov1.Constraint_Regex{Regex: long}}, matches(long),
		},
		{
			"choice", "How many? ",
			&infernov1.Constraint{Form: &infernov1.Constraint_Choice{Choice: &infernov1.Choices{Texts: []string{"three ", "twenty-three ", "très ", "two "}}}},
			matches(choice),
		},
		{
			"grammar", "Numbers, the largest first: ",
			&infernov1.Constraint{Form: &infernov1.Constraint_Grammar{Grammar: `root ::= "[" item ("," item){2,3} "]"
				item ::= [1-9] [0-9]{0,2} | "[" item? "]" | "\"é" [a-z]{1,4} "\""`}},
			func(text string) error {
				var list []any
				if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) < 3 || len(list) > 4 {
					return fmt.Errorf("%d items (%w)", len(list), err)
				}
				return nil
			},
		},
	}
}

// formRequests are two of each form: a greedy one, and three seeded continuations. They give their blocks up before others do.
func formRequests() (requests []*infernov1.GenerateRequest, judges []formCase) {
	for _, c := range formCases() {
		for _, seeded := range []bool{false, true} {
			r := &infernov1.GenerateRequest{
				Model: "smollm2", Input: &infernov1.GenerateRequest_Text{Text: c.prompt}, Constraint: c.constraint, Priority: new(int32(-1)),
				Sampling: &infernov1.SamplingParameters{Temperature: new(float32(0)), Seed: new(uint64(5))},
				Stopping: &infernov1.StoppingParameters{MaxTokens: new(uint32(160))},
			}
			if seeded {
				r.Sampling.Temperature, r.Sampling.N = new(float32(0.9)), new(uint32(3))
			}
			requests, judges = append(requests, r), append(judges, c)
		}
	}
	return requests, judges
}

// judge holds the texts of an answer to their form, and returns the token ids of each.
func (c *formCase) judgeAll(t *testing.T, answer *infernov1.GenerateResponse) (ids [][]uint32, whole int) {
	t.Helper()
	for _, one := range answer.GetCompletions() {
		ids = append(ids, one.GetTokenIds())
		switch reason := one.GetFinish().GetReason(); reason {
		case infernov1.FinishReason_FINISH_REASON_CONSTRAINT_DONE, infernov1.FinishReason_FINISH_REASON_END_TOKEN:
			whole++
			if err := c.judge(one.GetText()); err != nil {
				t.Errorf("%s: %q: %v", c.name, one.GetText(), err)
			}
		case infernov1.FinishReason_FINISH_REASON_MAX_TOKENS: // a model may write a long object
		default:
			t.Errorf("%s: %q ended with %v", c.name, one.GetText(), reason)
		}
	}
	return ids, whole
}

// TestOutputsHaveTheirForm: each form, greedy and sampled, alone, and as one of many that are preempted, where the tokens are the same.
func TestOutputsHaveTheirForm(t *testing.T) {
	args := []string{"--device=cpu", "--model=smollm2=" + smolLM2(t)}
	requests, judges := formRequests()
	want := make([][][]uint32, len(requests))
	alone := startProcess(t, nil, args...)
	alone.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	client := infernov1.NewInferenceServiceClient(alone.dial())
	for i, r := range requests {
		answer, err := client.Generate(t.Context(), r)
		if err != nil {
			t.Fatalf("%s: %v", judges[i].name, err)
		}
		whole := 0
		if want[i], whole = judges[i].judgeAll(t, answer); whole == 0 {
			t.Errorf("%s: no whole text among %v", judges[i].name, answer.GetCompletions())
		}
	}
	t.Run("in the text that is sent", func(t *testing.T) { formsInEveryText(t, client) })

	together := startProcess(t, nil, append(args, "--kv-memory=12MiB", "--context=512", "--target-itl=0s")...)
	together.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	client = infernov1.NewInferenceServiceClient(together.dial())
	var calls sync.WaitGroup
	preemptions := make([]uint32, len(requests))
	for i, r := range requests {
		calls.Go(func() {
			answer, err := client.Generate(t.Context(), r)
			if err != nil {
				t.Errorf("%s in company: %v", judges[i].name, err)
				return
			}
			got, _ := judges[i].judgeAll(t, answer)
			if !slices.EqualFunc(got, want[i], slices.Equal) {
				t.Errorf("%s in company: tokens %v, alone %v", judges[i].name, got, want[i])
			}
			preemptions[i] = answer.GetUsage().GetPreemptions()
		})
	}
	for i := range 16 {
		calls.Go(func() {
			if _, err := client.Generate(t.Context(), company{longer: 2}.request(i)); err != nil {
				t.Errorf("company %d: %v", i, err)
			}
		})
	}
	calls.Wait()
	if slices.Max(preemptions) == 0 {
		t.Error("none of them was preempted: this tests less than it should")
	}
}

// formsInEveryText: what else is asked of the text does not change its form, nor does what came before it.
func formsInEveryText(t *testing.T, client infernov1.InferenceServiceClient) {
	for _, c := range formCases() {
		if c.name == "object" || c.name == "long" {
			continue // a model may write an object beyond max_tokens
		}
		for name, edit := range map[string]func(*infernov1.GenerateRequest){
			"special tokens kept": func(r *infernov1.GenerateRequest) { r.Output = &infernov1.OutputOptions{SkipSpecialTokens: new(false)} },
			"echo":                func(r *infernov1.GenerateRequest) { r.Output = &infernov1.OutputOptions{Echo: new(true)} },
			"chat": func(r *infernov1.GenerateRequest) {
				r.Input = &infernov1.GenerateRequest_Chat{Chat: &infernov1.ChatMessages{Messages: []*infernov1.ChatMessage{{Role: "user", Content: c.prompt}}}}
			},
			"end tokens ignored": func(r *infernov1.GenerateRequest) { r.Stopping.IgnoreEos = new(true) },
			"speculation": func(r *infernov1.GenerateRequest) {
				r.Speculation = &infernov1.SpeculationOptions{Ngram: &infernov1.NgramSpeculation{}}
			},
			"least tokens": func(r *infernov1.GenerateRequest) { r.Stopping.MinTokens = new(uint32(160)) },
		} {
			r := &infernov1.GenerateRequest{
				Model: "smollm2", Input: &infernov1.GenerateRequest_Text{Text: c.prompt}, Constraint: c.constraint,
				Sampling: &infernov1.SamplingParameters{Temperature: new(float32(0.7)), Seed: new(uint64(3)), TopP: new(float32(0.9))},
				Stopping: &infernov1.StoppingParameters{MaxTokens: new(uint32(160))},
			}
			edit(r)
			answer, err := client.Generate(t.Context(), r)
			if err != nil {
				t.Errorf("%s, %s: %v", c.name, name, err)
				continue
			}
			if name == "echo" {
				one := answer.GetCompletions()[0]
				text, found := strings.CutPrefix(one.GetText(), c.prompt)
				if one.Text = text; !found {
					t.Errorf("%s: %q does not begin with the prompt", c.name, text)
				}
			}
			if _, whole := c.judgeAll(t, answer); whole == 0 {
				t.Errorf("%s, %s: no whole text: %v", c.name, name, answer.GetCompletions())
			}
		}
	}
}
