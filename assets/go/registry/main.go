// Registry is the image registry of the lab, with storage on a file system or in memory.
//
// Its own program and no applet of kubelab: it runs on the engine and not in the node, so it would share neither file nor
// page with them, and its image would be 195 MB instead of 27.
package main

import (
	"os"

	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
)

func main() {
	if err := registry.RootCmd.Execute(); err != nil {
		os.Exit(1) // cobra has printed it
	}
}
