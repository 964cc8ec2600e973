// Package registry is the configuration of iSCSI targets: which there are, which
// volumes are their logical units, who may use them and how they prove it. It
// is kept with the cluster's metadata, so that every gateway serves the same.
package registry
