package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
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

	TLS           bool   `name:"tls" help:"Speak TLS; implied by the other --tls flags."`
	TLSCA         string `name:"tls-ca" placeholder:"FILE" help:"PEM certificates of the authorities that vouch for the server; those of the system when not given."`
	TLSCert       string `name:"tls-cert" placeholder:"FILE" help:"PEM certificate to show the server."`
	TLSKey        string `name:"tls-key" placeholder:"FILE" help:"PEM private key of --tls-cert."`
	TLSServerName string `name:"tls-server-name" placeholder:"NAME" help:"Name that the server's certificate has to bear; the host of --addr when not given."`
	TokenFile     string `name:"token-file" placeholder:"FILE" help:"File of the token to show the server; else the variable INFERNO_TOKEN. No flag takes the token itself: others would see it in the list of processes."`
}

// tokenVariable is the environment variable that holds a token.
const tokenVariable = "INFERNO_TOKEN"

// options say how to reach the server.
func (r remote) options() (client.Options, error) {
	o := client.Options{Addr: r.Addr}
	if r.TLS || r.TLSCA != "" || r.TLSCert != "" || r.TLSKey != "" || r.TLSServerName != "" {
		config, err := client.TLSFiles{CA: r.TLSCA, Cert: r.TLSCert, Key: r.TLSKey, ServerName: r.TLSServerName}.Config()
		if err != nil {
			return o, fmt.Errorf("%w: --tls: %w", errUsage, err)
		}
		o.TLS = config
	}
	if token := os.Getenv(tokenVariable); r.TokenFile != "" {
		o.Token = client.TokenFile(r.TokenFile)
	} else if token != "" {
		o.Token = client.StaticToken(token)
	}
	return o, nil
}

func (r remote) dial() (*client.Client, error) {
	o, err := r.options()
	if err != nil {
		return nil, err
	}
	return client.New(o)
}

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
