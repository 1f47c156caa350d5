"""What other tools and other people call things, for suggestions. Never accepted as input."""

from typing import Final

# What we call it, and what Chaos Mesh, LitmusChaos, krkn, Pumba, chaosblade, Toxiproxy, AWS FIS, stress-ng and tc call it.
_KINDS = {
    "replica-kill": """pod-kill pod-delete pod-failure pod-restart kill-pod delete-pod container-kill container-delete kill-container
        docker-kill kill terminate terminate-pods terminate-instances instance-kill worker-kill server-kill vm-kill power-off""",
    "process-kill": "kill-process process-killer sigkill kill-9 engine-kill rank-kill worker-process-kill service-kill",
    "process-hang": """process-pause pause sigstop freeze hang container-pause docker-pause pod-pause stop-process process-stop
        suspend stuck zombie""",
    "rollout-restart": "restart rollout rolling-restart service-restart restart-workload deployment-restart",
    "scale-down": "scale scale-in scale-to-zero downscale replica-scale pod-scale",
    "drain-check": "graceful-shutdown sigterm graceful-stop",
    "node-drain": "drain kubectl-drain evict pod-eviction eviction",
    "node-cordon": "cordon",
    "node-taint": "taint",
    "node-isolate": "isolate-node node-network-loss node-down node-failure node-partition",
    "zone-drain": "zone-outage az-outage availability-zone-outage",
    "network-partition": """partition pod-network-partition network-blackhole blackhole black-hole split-brain network-outage
        network-isolate network-chaos network-disconnect down network-drop cut netsplit""",
    "network-loss": "packet-loss pod-network-loss network-packet-loss netem-loss loss drop-packets lossy",
    "network-delay": """latency network-latency pod-network-latency packet-delay netem-delay delay jitter slow-network
        network-slow http-latency""",
    "network-rate": "bandwidth network-bandwidth pod-network-rate-limit rate-limit throttle-network netem-rate",
    "tcp-reset": "reset connection-reset reset-peer reset_peer tcp-rst rst http-reset-peer http-abort network-reset",
    "stream-stall": "stall slow-close slow_close stream-hang token-stall",
    "stream-truncate": "truncate limit-data limit_data stream-cut truncate-stream",
    "dns-break": "dns-chaos dns-error dns-outage dns-fail pod-dns-error pod-dns-spoof dns-random dns",
    "dependency-outage": "dependency-down service-outage backend-outage s3-outage hub-outage",
    "cpu-stress": """cpu-hog pod-cpu-hog node-cpu-hog stress-cpu cpu-burn cpu-load cpu-fullload cpu-chaos hog-cpu cpu burn-cpu
        stress stress-ng""",
    "memory-stress": """mem-hog memory-hog pod-memory-hog node-memory-hog stress-memory stress-mem mem-load memory-burn mem-stress
        memory-fill oom oom-kill ram-stress hold-memory vm-stress""",
    "io-stress": "io-hog disk-burn node-io-stress pod-io-stress stress-io disk-stress disk-io",
    "disk-fill": "fill-disk disk-full node-disk-fill disk-pressure storage-fill pvc-fill volume-fill ephemeral-storage-fill",
    "inode-fill": "fill-inodes inode-exhaustion",
    "volume-readonly": "read-only-volume remount-ro",
    "volume-slow": "slow-disk io-latency io-delay disk-latency",
    "permission-loss": "chmod permission-denied chmod-000",
    "gpu-saturate": "gpu-hog gpu-burn gpu-stress gpu-load gpu-busy",
    "gpu-memory-fill": "vram-fill gpu-oom gpu-memory-hog vram-hog gpu-mem-fill",
    "gpu-throttle": "gpu-clock-limit gpu-power-limit power-cap",
    "gpu-lost": "gpu-fail gpu-failure gpu-loss xid gpu-drop",
    "model-corrupt": """corrupt-model model-corruption file-corrupt corrupt-file weight-corruption weights-corrupt bit-flip bitflip
        file-mutate mutate-file model-mutate weights-flip model-damage corrupt""",
    "version-skew": "model-version-skew stale-model model-stale stale-version mixed-versions revision-skew model-rollback wrong-version",
    "checkpoint-corrupt": "corrupt-checkpoint checkpoint-damage",
    "credential-expire": "credential-loss expired-credential token-expire secret-swap credential-revoke expire-token",
    "model-store-outage": "model-hub-outage registry-outage store-outage model-registry-outage",
    "cache-wipe": "wipe-cache cache-clear clear-cache cache-loss cache-drop",
    "traffic-surge": "load traffic load-spike spike",
    "command": "shell exec script run bash process-action custom",
}
KINDS: Final = {word: kind for kind, words in _KINDS.items() for word in words.split()}

# What we call it, and what others do. The first of a word's meanings that is valid at the place is suggested.
_KEYS = {
    "apiVersion": "version api api_version",
    "name": "id names pods containers nodes",
    "names": "name pods containers pod container ids instances",
    "title": "description summary",
    "steady_state": """steady_state_hypothesis hypothesis probes steady baseline preconditions checks before healthy tolerance
        steadystate""",
    "faults": "method methods actions action experiments experiment steps chaos injections attacks fault injectors disasters",
    "objectives": "slo slos slas objective assertions expect expectations success_criteria goals verify pass",
    "abort": "stop_conditions stop_condition abort_conditions abort_if guard guards kill_switch halt safeguards",
    "blast_radius": "blast limits max_targets limit radius",
    "load": "traffic workload load_test generator",
    "rehearses": "references reference incident incidents links refs sources",
    "observe": "timeout duration wait observation max_wait recovery_timeout watch",
    "settle": "cooldown cool_down stabilize stable stabilise grace_period quiet",
    "runbook": "manual_steps playbook people",
    "lessons": "notes learnings retrospective postmortem",
    "kind": "type action fault attack provider experiment injector",
    "target": "selector targets match where labels label_selector targeting",
    "at": "delay start after when offset wait start_at pause_before pauses begin",
    "for": "duration hold length lasts last for_seconds window period",
    "deadline": "timeout expiry ttl expires max_duration limit",
    "role": "label labels component kind type selector",
    "count": "number quantity amount n replicas max mode instances kill",
    "share": "percent percentage ratio fraction portion pods_affected_perc",
    "rto": "recovery_time mttr max_downtime recovery_time_objective rto_seconds downtime outage recovery",
    "rpo": "data_loss recovery_point_objective rpo_seconds lost_writes",
    "quality_loss": "wrong_answers quality accuracy correctness",
    "availability": "uptime success_rate error_rate success",
    "time_to_detect": "mttd detect detection_time detection ttd rto_detect",
    "streams_cut": "dropped_streams broken_streams streams streams_lost",
    "stream_gap": "longest_gap token_gap inter_token_latency gap itl",
    "hold": "duration for window period",
    "success": "success_rate availability error_rate errors success_ratio",
    "first_token_p95": "ttft ttft_p95 first_token latency p95 latency_p95 time_to_first_token",
    "golden": "quality answers prompts golden_prompts questions",
    "streams": "concurrency connections users clients",
    "rate": "rps qps requests frequency hz requests_per_second",
    "targets": "count max number",
    "step": "title text action todo description",
    "by": "who owner role person team",
    "platform": "type target environment runtime",
    "endpoint": "url host address api server",
    "url": "uri base_url host address endpoint",
    "kubernetes": "k8s kube cluster",
    "docker": "compose containers",
    "process": "local processes local_process host",
    "health": "healthcheck health_checks readiness liveness health_check ready",
    "ledger": "writes feedback",
    "protect": "protected safety",
    "components": "replicas processes services members",
    "inside": "children subprocesses",
    "pid_file": "pidfile pid",
    "command_line": "cmdline pattern regex match process_name",
    "start": "command cmd exec run argv",
    "directory": "cwd workdir working_directory folder",
    "environment": "env environ envs",
    "supervised": "restart restarts auto_restart",
    "listen": "port proxy_port",
    "from": "source src client origin",
    "to": "target dest destination dst upstream server",
    "workload": "deployment statefulset label_selector",
    "max_tokens": "tokens max_new_tokens n_predict",
    "text": "answer expected expect completion output",
    "prompt": "question input",
    "path": "file folder location",
    "delay": "latency latency_ms delay_ms",
    "jitter": "variance deviation",
    "size": "bytes amount megabytes",
    "workers": "cores threads cpus",
    "peers": "to from destination",
}
KEYS: Final[dict[str, list[str]]] = {}
for _key, _words in _KEYS.items():
    for _word in _words.split():
        KEYS.setdefault(_word, []).append(_key)

# Keys of other tools that have no counterpart here, and why.
NO_COUNTERPART: Final = {
    **dict.fromkeys(("rollbacks", "rollback", "undo", "recover", "revert", "cleanup"), "undo runs always; leave it out"),
    **dict.fromkeys(
        ("namespace", "namespaces", "context", "kubeconfig"), "where the service lives stands in service.yaml; leave it out"
    ),
    **dict.fromkeys(("spec", "metadata"), "write its keys at the top level, without it"),
    **dict.fromkeys(("dry_run", "dryrun"), "`blackstart plan` is the dry run; leave it out"),
    **dict.fromkeys(("tags", "labels", "contributions"), "`title`, `rehearses` and `lessons` are free text; leave it out"),
    **dict.fromkeys(
        ("schedule", "cron", "scheduler"), "`blackstart schedule` prints what runs a drill on a schedule; leave it out"
    ),
    **dict.fromkeys(("secrets", "configuration", "token", "password", "api_key"), "files hold no secrets; leave it out"),
    **dict.fromkeys(("service",), "a service is named when a drill is run: `--service FILE`; leave it out"),
    **dict.fromkeys(("retries", "retry"), "only `load` has retries; leave it out"),
}
