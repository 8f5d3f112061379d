package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/inferno-serve/inferno/client"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// remote are the flags of a command that calls a server.
type remote struct {
	Addr string `default:"127.0.0.1:50051" help:"Address of the server: host:port or unix:///path."`
	JSON bool   `name:"json" help:"Print one JSON object a line."`
}

func (r remote) options() client.Options { return client.Options{Addr: r.Addr} }

func (r remote) dial() (*client.Client, error) { return client.New(r.options()) }

// onlyModel returns name, or the name of the server's only model where it is empty.
func onlyModel(ctx context.Context, c *client.Client, name string) (string, error) {
	if name != "" {
		return name, nil
	}
	list, err := c.Registry().ListModels(ctx, &infernov1.ListModelsRequest{})
	if err != nil {
		return "", err
	}
	models := list.GetModels()
	if len(models) == 1 {
		return models[0].GetName(), nil
	}
	names := make([]string, len(models))
	for i, m := range models {
		names[i] = m.GetName()
	}
	return "", fmt.Errorf("%w: --model is needed: the server has %d models: %s", errUsage, len(models), strings.Join(names, ", "))
}

// writeJSON prints v on one line.
func (c *console) writeJSON(v any) error {
	encoder := json.NewEncoder(c.out)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// writeProto prints m on one line, with the names of the proto file.
func (c *console) writeProto(m proto.Message) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err
	}
	return c.writeJSON(json.RawMessage(text)) // which takes the spaces out that protojson varies on purpose
}

// enumName is the name of an enum's value without what all names of the enum start with.
func enumName(value fmt.Stringer, prefix string) string {
	return strings.TrimPrefix(value.String(), prefix)
}
