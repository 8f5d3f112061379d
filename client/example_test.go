package client_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/inferno-serve/inferno/client"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Generating with a deadline, and the whole answer at once.
func ExampleClient_Generate() {
	c, err := client.New(client.Options{Addr: "127.0.0.1:50051"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	result, err := c.Generate(ctx, &infernov1.GenerateRequest{
		Model:    "smollm2",
		Input:    &infernov1.GenerateRequest_Text{Text: "The capital of France is"},
		Sampling: &infernov1.SamplingParameters{Temperature: new(float32(0))},
		Stopping: &infernov1.StoppingParameters{MaxTokens: new(uint32(24))},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Completions[0].Text)
}

// Printing the answer as it comes.
func ExampleClient_Stream() {
	c, err := client.New(client.Options{Addr: "127.0.0.1:50051"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	request := &infernov1.GenerateRequest{
		Model: "smollm2",
		Input: &infernov1.GenerateRequest_Text{Text: "Once upon a time"},
	}
	for event, err := range c.Stream(context.Background(), request) {
		if err != nil {
			log.Fatal(err)
		}
		switch e := event.(type) {
		case client.Start:
			fmt.Printf("seed %d\n", e.Effective.GetSampling().GetSeed())
		case client.Tokens:
			fmt.Print(e.Text)
		case client.Finish:
			fmt.Printf("\n%v\n", e.Reason)
		case client.Summary:
			fmt.Printf("%d tokens in %v\n", e.Usage.CompletionTokens, e.Timings.Total)
		}
	}
}

// Calling all instances that serve a model, as the registry in etcd knows them. Prompts that begin alike go to one replica.
func ExampleDial() {
	c, err := client.Dial("inferno:///llama-3?etcd=127.0.0.1:2379&affinity=prefix")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	// A conversation stays where its cache is, however it begins.
	ctx := client.WithAffinity(context.Background(), "session 17")
	result, err := c.Generate(ctx, &infernov1.GenerateRequest{
		Model: "llama-3",
		Input: &infernov1.GenerateRequest_Chat{Chat: &infernov1.ChatMessages{
			Messages: []*infernov1.ChatMessage{{Role: "user", Content: "Why is the sky blue?"}},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Completions[0].Text)
}
