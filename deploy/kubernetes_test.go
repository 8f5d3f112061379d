package deploy

import (
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

// object is the one of a kind in a rendered overlay.
func object[T any](t *testing.T, objects map[string]any, name string) *T {
	t.Helper()
	found, ok := objects[name].(*T)
	if !ok {
		t.Fatalf("there is no %s, but %v", name, slices.Sorted(maps.Keys(objects)))
	}
	return found
}

// TestPodsHaveNoRights holds every overlay to what an image without a shell, a root file system that is read and a user of its own promise.
func TestPodsHaveNoRights(t *testing.T) {
	for _, overlay := range []string{"cpu", "cuda"} {
		t.Run(overlay, func(t *testing.T) {
			objects := render(t, "kubernetes/overlays/"+overlay)
			pod := object[appsv1.Deployment](t, objects, "Deployment/inferno").Spec.Template.Spec
			container, context, own := pod.Containers[0], pod.SecurityContext, pod.Containers[0].SecurityContext
			profile, capabilities := context.SeccompProfile, own.Capabilities
			for what, holds := range map[string]bool{
				"one container":                   len(pod.Containers) == 1 && len(pod.InitContainers) == 0,
				"runAsNonRoot":                    is(context.RunAsNonRoot, true),
				"a user above 10000":              context.RunAsUser != nil && *context.RunAsUser >= 10000,
				"a group above 10000":             context.RunAsGroup != nil && *context.RunAsGroup >= 10000,
				"the runtime's seccomp profile":   profile != nil && profile.Type == corev1.SeccompProfileTypeRuntimeDefault,
				"no privilege escalation":         is(own.AllowPrivilegeEscalation, false) && own.Privileged == nil,
				"a root file system that is read": is(own.ReadOnlyRootFilesystem, true),
				"no capabilities":                 capabilities != nil && slices.Equal(capabilities.Drop, []corev1.Capability{"ALL"}) && capabilities.Add == nil,
				"no token of the cluster":         is(pod.AutomountServiceAccountToken, false),
				"no variables of services":        is(pod.EnableServiceLinks, false),
				"nothing of the host":             !pod.HostNetwork && !pod.HostPID && !pod.HostIPC,
				"a memory limit":                  !container.Resources.Limits.Memory().IsZero(),
				"memory as requested":             container.Resources.Limits.Memory().Cmp(*container.Resources.Requests.Memory()) == 0,
			} {
				if !holds {
					t.Errorf("want %s", what)
				}
			}
			for _, mount := range container.VolumeMounts {
				if !mount.ReadOnly {
					t.Errorf("volume %s can be written", mount.Name)
				}
			}
		})
	}
}

func TestProbesAskTheServer(t *testing.T) {
	pod := object[appsv1.Deployment](t, render(t, "kubernetes/overlays/cpu"), "Deployment/inferno").Spec.Template.Spec
	container := pod.Containers[0]
	port := map[string]int32{}
	for _, p := range container.Ports {
		port[p.Name] = p.ContainerPort
	}
	startup, ready, live := container.StartupProbe, container.ReadinessProbe, container.LivenessProbe
	for name, probe := range map[string]*corev1.Probe{"startup": startup, "readiness": ready, "liveness": live} {
		if probe == nil || probe.GRPC == nil || probe.GRPC.Port != port["grpc"] {
			t.Fatalf("%s probe: %v, want gRPC at port %d", name, probe, port["grpc"])
		}
	}
	if ready.PeriodSeconds*ready.FailureThreshold >= live.PeriodSeconds*live.FailureThreshold {
		t.Error("a replica is killed before it is taken out of service")
	}
}

// TestGraceOutlastsTheDrain: else the kubelet kills what is still sending.
func TestGraceOutlastsTheDrain(t *testing.T) {
	objects := render(t, "kubernetes/overlays/cpu")
	pod := object[appsv1.Deployment](t, objects, "Deployment/inferno").Spec.Template.Spec
	file := object[corev1.ConfigMap](t, objects, "ConfigMap/inferno").Data["inferno.yaml"]
	var settings map[string]any
	if err := yaml.Unmarshal([]byte(file), &settings); err != nil {
		t.Fatal(err)
	}
	var drain time.Duration
	for _, key := range []string{"drain-delay", "drain-timeout"} {
		text, _ := settings[key].(string)
		value, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		drain += value
	}
	if grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second; grace < drain+5*time.Second {
		t.Errorf("a grace period of %v, want 5 s beyond a drain of %v", grace, drain)
	}
}

// TestSelectorsChooseTheReplicas and nobody else: an empty one would choose every pod of the namespace.
func TestSelectorsChooseTheReplicas(t *testing.T) {
	objects := render(t, "kubernetes/overlays/cuda")
	deployment := object[appsv1.Deployment](t, objects, "Deployment/inferno")
	policy := object[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy/inferno").Spec
	service := object[corev1.Service](t, objects, "Service/inferno")
	monitor := object[monitoringv1.ServiceMonitor](t, objects, "ServiceMonitor/inferno").Spec
	pods := deployment.Spec.Template.Labels
	for who, selector := range map[string]map[string]string{
		"Deployment":          deployment.Spec.Selector.MatchLabels,
		"Service":             service.Spec.Selector,
		"NetworkPolicy":       policy.PodSelector.MatchLabels,
		"PodDisruptionBudget": object[policyv1.PodDisruptionBudget](t, objects, "PodDisruptionBudget/inferno").Spec.Selector.MatchLabels,
		"InferencePool":       object[inferencePool](t, objects, "InferencePool/inferno").Spec.Selector.MatchLabels,
	} {
		if len(selector) == 0 || !subset(selector, pods) {
			t.Errorf("%s selects %v, the pods are %v", who, selector, pods)
		}
	}
	if len(monitor.Selector.MatchLabels) == 0 || !subset(monitor.Selector.MatchLabels, service.Labels) {
		t.Errorf("ServiceMonitor selects %v, the service is %v", monitor.Selector.MatchLabels, service.Labels)
	}
	if len(policy.PolicyTypes) != 2 || len(policy.Egress) != 0 || len(policy.Ingress) == 0 {
		t.Errorf("the policy lets out more than nothing, or in nobody: %+v", policy)
	}
	for _, rule := range policy.Ingress {
		if len(rule.From) == 0 || len(rule.Ports) == 0 {
			t.Errorf("a rule lets in everybody, or to every port: %+v", rule)
		}
		for _, from := range rule.From {
			if from.PodSelector != nil && from.NamespaceSelector == nil && subset(from.PodSelector.MatchLabels, pods) {
				t.Errorf("a rule is for the replicas themselves: %v", from.PodSelector.MatchLabels)
			}
			if from.PodSelector != nil && from.PodSelector.MatchLabels["app.kubernetes.io/name"] == pods["app.kubernetes.io/name"] {
				t.Errorf("clients would have to be called as the replicas are: %v", from.PodSelector.MatchLabels)
			}
		}
	}
}

// TestPortsAreThose follows every port by name or number to the container's.
func TestPortsAreThose(t *testing.T) {
	objects := render(t, "kubernetes/overlays/cuda")
	container := object[appsv1.Deployment](t, objects, "Deployment/inferno").Spec.Template.Spec.Containers[0]
	named := map[string]bool{}
	for _, p := range container.Ports {
		named[p.Name] = true
		named[strconv.Itoa(int(p.ContainerPort))] = true
	}
	inService := map[string]bool{}
	for _, p := range object[corev1.Service](t, objects, "Service/inferno").Spec.Ports {
		inService[p.Name] = true
		if !named[p.TargetPort.String()] {
			t.Errorf("Service: no port %s", p.TargetPort.String())
		}
	}
	for _, rule := range object[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy/inferno").Spec.Ingress {
		for _, p := range rule.Ports {
			if !named[p.Port.String()] {
				t.Errorf("NetworkPolicy: no port %s", p.Port.String())
			}
		}
	}
	for _, e := range object[monitoringv1.ServiceMonitor](t, objects, "ServiceMonitor/inferno").Spec.Endpoints {
		if !inService[e.Port] {
			t.Errorf("ServiceMonitor: no port %s", e.Port)
		}
	}
	for _, p := range object[inferencePool](t, objects, "InferencePool/inferno").Spec.TargetPorts {
		if !named[strconv.Itoa(int(p.Number))] {
			t.Errorf("InferencePool: no port %d", p.Number)
		}
	}
}

func TestCardsAndTheAutoscaler(t *testing.T) {
	objects := render(t, "kubernetes/overlays/cuda")
	deployment := object[appsv1.Deployment](t, objects, "Deployment/inferno")
	if cards := deployment.Spec.Template.Spec.Containers[0].Resources.Limits["nvidia.com/gpu"]; cards.Value() != 1 {
		t.Errorf("%v cards for a replica, want 1", cards.Value())
	}
	if deployment.Spec.Replicas != nil {
		t.Error("the deployment says how many replicas there are, and so does the autoscaler")
	}
	scaler := object[scaledObject](t, objects, "ScaledObject/inferno").Spec
	if scaler.ScaleTargetRef.Name != deployment.Name || *scaler.MinReplicaCount < 2 || *scaler.MaxReplicaCount < *scaler.MinReplicaCount {
		t.Errorf("it scales %s from %d to %d", scaler.ScaleTargetRef.Name, *scaler.MinReplicaCount, *scaler.MaxReplicaCount)
	}
	for _, trigger := range scaler.Triggers {
		if threshold, err := strconv.ParseFloat(trigger.Metadata["threshold"], 64); err != nil || threshold <= 0 {
			t.Errorf("trigger %s: threshold %q", trigger.Name, trigger.Metadata["threshold"])
		}
		if trigger.MetricType != "AverageValue" || trigger.Metadata["query"] == "" {
			t.Errorf("trigger %s: %+v", trigger.Name, trigger)
		}
	}
}

func is(value *bool, want bool) bool { return value != nil && *value == want }

func subset(some, all map[string]string) bool {
	for key, value := range some {
		if all[key] != value {
			return false
		}
	}
	return true
}
