// Package main gives a Prometheus without Kubernetes discovery, such as Debian's, the targets that one with it would
// find: Prometheus's own discovery runs here and writes what it finds, all labels included, for file_sd_configs. The
// relabelling of the configuration is left to the Prometheus that reads it.
//
//	prometheus-targets CONFIG FOLDER
//
// writes FOLDER/prometheus.yaml, which is CONFIG with each kubernetes_sd_configs replaced, and FOLDER/N.json for the
// Nth scrape configuration, again and again until it is ended. KUBECONFIG names the cluster.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/kubernetes"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"gopkg.in/yaml.v2"
)

// target is one entry of a file for file_sd_configs.
type target struct {
	Targets []model.LabelValue `json:"targets"`
	Labels  model.LabelSet     `json:"labels"`
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: prometheus-targets CONFIG FOLDER")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "prometheus-targets:", err)
		os.Exit(1)
	}
}

func run(config, folder string) error {
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	rewritten, searches, err := split(text, folder)
	if err != nil {
		return err
	}
	// Each file is there before the configuration that names it.
	for file := range searches {
		if err := write(file, nil); err != nil {
			return err
		}
	}
	if err := replace(filepath.Join(folder, "prometheus.yaml"), rewritten); err != nil {
		return err
	}
	return follow(searches)
}

// split takes the searches in the cluster out of a configuration; they are keyed by the file that stands for them.
func split(text []byte, folder string) ([]byte, map[string]discovery.Configs, error) {
	var config map[string]any
	if err := yaml.Unmarshal(text, &config); err != nil {
		return nil, nil, err
	}
	searches := map[string]discovery.Configs{}
	jobs, _ := config["scrape_configs"].([]any)
	for number, entry := range jobs {
		job, _ := entry.(map[any]any)
		wanted, found := job["kubernetes_sd_configs"]
		if !found {
			continue
		}
		file := filepath.Join(folder, fmt.Sprintf("%d.json", number))
		search, err := parse(wanted)
		if err != nil {
			return nil, nil, fmt.Errorf("%v: %w", job["job_name"], err)
		}
		searches[file] = search
		delete(job, "kubernetes_sd_configs")
		job["file_sd_configs"] = []any{map[string]any{"files": []string{file}, "refresh_interval": "2s"}}
	}
	rewritten, err := yaml.Marshal(config)
	return rewritten, searches, err
}

// parse reads one kubernetes_sd_configs as Prometheus does, for the cluster of KUBECONFIG.
func parse(wanted any) (discovery.Configs, error) {
	text, err := yaml.Marshal(wanted)
	if err != nil {
		return nil, err
	}
	var parsed []*kubernetes.SDConfig
	if err := yaml.UnmarshalStrict(text, &parsed); err != nil {
		return nil, err
	}
	var configs discovery.Configs
	for _, one := range parsed {
		one.KubeConfig = os.Getenv("KUBECONFIG")
		configs = append(configs, one)
	}
	return configs, nil
}

// follow writes what is found whenever it changes; it returns only on an error.
func follow(searches map[string]discovery.Configs) error {
	registry := prometheus.NewRegistry()
	metrics, err := discovery.CreateAndRegisterSDMetrics(registry)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	manager := discovery.NewManager(context.Background(), log, registry, metrics, discovery.Updatert(time.Second))
	if manager == nil {
		return fmt.Errorf("the discovery cannot start")
	}
	ended := make(chan error, 1)
	go func() { ended <- manager.Run() }()
	if err := manager.ApplyConfig(searches); err != nil {
		return err
	}
	for {
		select {
		case err := <-ended:
			return fmt.Errorf("the discovery ended: %w", err)
		case found := <-manager.SyncCh():
			for file, groups := range found {
				if err := write(file, groups); err != nil {
					return err
				}
			}
		}
	}
}

// write puts one entry for each target, because in a file only an entry has labels.
func write(file string, groups []*targetgroup.Group) error {
	entries := []target{}
	for _, group := range groups {
		for _, labels := range group.Targets {
			all := maps.Clone(group.Labels)
			if all == nil {
				all = model.LabelSet{}
			}
			maps.Copy(all, labels)
			address := all[model.AddressLabel]
			delete(all, model.AddressLabel)
			entries = append(entries, target{Targets: []model.LabelValue{address}, Labels: all})
		}
	}
	text, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	return replace(file, text)
}

// replace writes a file so that a reader sees the old one or the new one.
func replace(file string, text []byte) error {
	fresh := file + ".new"
	if err := os.WriteFile(fresh, text, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, file)
}
