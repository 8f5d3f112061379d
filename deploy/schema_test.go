// Package deploy holds what runs Inferno elsewhere: manifests, units, alerts, a dashboard. It has no code; its tests hold the manifests to
// the types that the cluster reads them into.
package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// kinds are the types that a manifest of an apiVersion and kind is read into, where every field has to be known.
var kinds = map[string]func() any{
	"v1 ConfigMap":                                 func() any { return new(corev1.ConfigMap) },
	"v1 Service":                                   func() any { return new(corev1.Service) },
	"v1 ServiceAccount":                            func() any { return new(corev1.ServiceAccount) },
	"apps/v1 Deployment":                           func() any { return new(appsv1.Deployment) },
	"policy/v1 PodDisruptionBudget":                func() any { return new(policyv1.PodDisruptionBudget) },
	"networking.k8s.io/v1 NetworkPolicy":           func() any { return new(networkingv1.NetworkPolicy) },
	"monitoring.coreos.com/v1 ServiceMonitor":      func() any { return new(monitoringv1.ServiceMonitor) },
	"keda.sh/v1alpha1 ScaledObject":                func() any { return new(scaledObject) },
	"inference.networking.k8s.io/v1 InferencePool": func() any { return new(inferencePool) },
}

// scaledObject is what the reference of KEDA 2.22 documents, as far as it is of use here: KEDA's own types would bring a whole controller
// along.
type scaledObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		ScaleTargetRef struct {
			APIVersion string `json:"apiVersion,omitempty"`
			Kind       string `json:"kind,omitempty"`
			Name       string `json:"name"`
		} `json:"scaleTargetRef"`
		PollingInterval *int32 `json:"pollingInterval,omitempty"` // seconds
		CooldownPeriod  *int32 `json:"cooldownPeriod,omitempty"`  // seconds
		MinReplicaCount *int32 `json:"minReplicaCount,omitempty"`
		MaxReplicaCount *int32 `json:"maxReplicaCount,omitempty"`
		Fallback        *struct {
			FailureThreshold int32 `json:"failureThreshold"`
			Replicas         int32 `json:"replicas"`
		} `json:"fallback,omitempty"`
		Advanced *struct {
			HorizontalPodAutoscalerConfig *struct {
				Behavior *autoscalingv2.HorizontalPodAutoscalerBehavior `json:"behavior,omitempty"`
			} `json:"horizontalPodAutoscalerConfig,omitempty"`
		} `json:"advanced,omitempty"`
		Triggers []struct {
			Type       string            `json:"type"`
			Name       string            `json:"name,omitempty"`
			MetricType string            `json:"metricType,omitempty"`
			Metadata   map[string]string `json:"metadata"` // strings alone
		} `json:"triggers"`
	} `json:"spec"`
}

// inferencePool is what the reference of version 1 of the API documents.
type inferencePool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Selector struct {
			MatchLabels map[string]string `json:"matchLabels"`
		} `json:"selector"`
		TargetPorts       []poolPort `json:"targetPorts"` // 1 to 8
		AppProtocol       string     `json:"appProtocol,omitempty"`
		EndpointPickerRef struct {
			Group       string   `json:"group,omitempty"`
			Kind        string   `json:"kind,omitempty"`
			Name        string   `json:"name"`
			Port        poolPort `json:"port"`
			FailureMode string   `json:"failureMode,omitempty"`
		} `json:"endpointPickerRef"`
	} `json:"spec"`
}

type poolPort struct {
	Number int32 `json:"number"`
}

// readManifest reads one document into its type.
func readManifest(text []byte) (object any, name string, err error) {
	var head struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
	}
	if err := yaml.Unmarshal(text, &head); err != nil {
		return nil, "", err
	}
	create, known := kinds[head.APIVersion+" "+head.Kind]
	if !known {
		return nil, "", fmt.Errorf("apiVersion %q, kind %q: not known here", head.APIVersion, head.Kind)
	}
	object = create()
	name = head.Kind + "/" + head.Name
	// By way of JSON, as the cluster does: read straight into the type, a number would become the string that is wanted.
	asJSON, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, name, err
	}
	unknown, err := json.UnmarshalStrict(asJSON, object)
	return object, name, errors.Join(append(unknown, err)...)
}

// render is what `kubectl apply -k` would send. It skips where there is no kubectl.
func render(t *testing.T, folder string) map[string]any {
	t.Helper()
	if _, err := exec.LookPath("kubectl"); err != nil {
		t.Skip("no kubectl: what the overlays add up to is not looked at")
	}
	var stderr bytes.Buffer
	command := exec.Command("kubectl", "kustomize", folder)
	command.Stderr = &stderr
	text, err := command.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", folder, err, &stderr)
	}
	objects := map[string]any{}
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		object, name, err := readManifest([]byte(document))
		if err != nil {
			t.Fatalf("%s: %s: %v", folder, name, err)
		}
		if name, _, _ = strings.Cut(name, "-"); objects[name] != nil {
			t.Fatalf("%s: %s is there twice", folder, name)
		}
		objects[name] = object
	}
	return objects
}

// TestManifestsAreOfTheirTypes needs no kubectl: each file that is no kustomization stands for itself.
func TestManifestsAreOfTheirTypes(t *testing.T) {
	files, err := filepath.Glob("kubernetes/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	below, err := filepath.Glob("kubernetes/*/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, file := range append(files, below...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if base := filepath.Base(file); base == "kustomization.yaml" || base == "inferno.yaml" {
			continue
		}
		if _, name, err := readManifest(text); err != nil {
			t.Errorf("%s: %s: %v", file, name, err)
		}
		read++
	}
	if read < 8 {
		t.Errorf("only %d manifests", read)
	}
}

func TestMisspeltManifestsAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"apiVersion: apps/v2\nkind: Deployment":                                                              "not known here",
		"apiVersion: policy/v1\nkind: PodDisruptionBudget\nspec: {maxUnavailble: 1}":                         `unknown field "spec.maxUnavailble"`,
		"apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: two}":                                       "cannot unmarshal",
		"apiVersion: v1\nkind: Service\nspec: {ports: [{port: 1, port: 2}]}":                                 "already set",
		"apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nspec: {triggers: [{metadata: {threshold: 0.8}}]}": "cannot unmarshal",
		"apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nspec: {targetPort: 1}":             `unknown field "spec.targetPort"`,
	} {
		if _, _, err := readManifest([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %s", text, err, want)
		}
	}
}
