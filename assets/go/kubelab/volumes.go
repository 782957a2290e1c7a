package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// The name is the one that KIND's StorageClass `standard` carries everywhere: a claim cannot tell the difference.
const provisionerName = "rancher.io/local-path"

// folders makes a PersistentVolume of a folder on this node. There is one such provisioner per node and it
// answers only for its own, because a folder on another node is out of its reach.
//
// Ours, because local-path-provisioner does not build beside Kubernetes 1.37, and starts a helper pod with a shell
// for every volume.
type folders struct {
	root, node string
}

func (f folders) ShouldProvision(_ context.Context, claim *corev1.PersistentVolumeClaim) bool {
	return claim.Annotations["volume.kubernetes.io/selected-node"] == f.node
}

func (f folders) ShouldDelete(_ context.Context, volume *corev1.PersistentVolume) bool {
	return volume.Annotations["labctl.dev/node"] == f.node
}

func (f folders) Provision(_ context.Context, options controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	path := filepath.Join(f.root, options.PVName)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	// A host path takes no fsGroup, and its pods run as any user.
	if err := os.Chmod(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	kind := corev1.HostPathDirectoryOrCreate
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: options.PVName, Annotations: map[string]string{"labctl.dev/node": f.node}},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: options.PVC.Spec.Resources.Requests[corev1.ResourceStorage]},
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{f.node}}},
			}}}},
		},
	}, controller.ProvisioningFinished, nil
}

func (f folders) Delete(_ context.Context, volume *corev1.PersistentVolume) error {
	// By the volume's name and not by the path that its object says: an object is anyone's to write.
	return os.RemoveAll(filepath.Join(f.root, filepath.Base(volume.Name)))
}

// runVolumeProvisioner takes the node's name from NODE_NAME and the folder, the same in pod and node, as its argument.
func runVolumeProvisioner() int {
	node := os.Getenv("NODE_NAME")
	if len(os.Args) != 2 || node == "" {
		fmt.Fprintln(os.Stderr, "usage: NODE_NAME=NODE volume-provisioner FOLDER")
		return 2
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		fmt.Fprintln(os.Stderr, "volume-provisioner:", err)
		return 1
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		fmt.Fprintln(os.Stderr, "volume-provisioner:", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	controller.NewProvisionController(ctx, client, provisionerName, folders{root: os.Args[1], node: node},
		// One per node, none of which does another's work: nothing to elect.
		controller.LeaderElection(false),
	).Run(ctx)
	return 0
}
