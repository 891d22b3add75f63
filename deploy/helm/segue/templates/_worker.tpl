{{/* A worker group: (dict "root" $ "name" NAME "of" VALUES "resources" JSON "port" METRICS_PORT). */}}
{{- define "segue.workerGroup" -}}
{{- $root := .root -}}
{{- $isRdma := eq $root.Values.transfer.protocol "rdma" -}}
{{- $nodes := ternary 1 .of.nodes (eq .name "shared") | int -}}
groupName: {{ .name }}
{{- if gt $nodes 1 }}
# Pods per worker.
numOfHosts: {{ $nodes }}
{{- end }}
{{- if $root.Values.autoscaling.enabled }}
{{- if gt $nodes 1 }}
{{- fail (printf "%s.nodes is %d, expected 1, since autoscaling is enabled: Ray's autoscaler adds pods one by one" .name $nodes) }}
{{- end }}
{{- if or (lt (int .of.replicas) (int .of.minReplicas)) (gt (int .of.replicas) (int .of.maxReplicas)) }}
{{- fail (printf "%s.replicas is %d, expected minReplicas (%d) to maxReplicas (%d), since autoscaling is enabled" .name (int .of.replicas) (int .of.minReplicas) (int .of.maxReplicas)) }}
{{- end }}
# Ray sets the number: an upgrade of the release must not reset it.
minReplicas: {{ .of.minReplicas }}
maxReplicas: {{ .of.maxReplicas }}
{{- else }}
replicas: {{ .of.replicas }}
minReplicas: {{ .of.replicas }}
maxReplicas: {{ .of.replicas }}
{{- end }}
rayStartParams:
  num-cpus: "0"
  num-gpus: {{ .of.gpus | quote }}
  # Quoted again, because KubeRay puts it into a shell command.
  resources: {{ .resources | quote | squote }}
  node-manager-port: "6380"
  object-store-memory: "100000000"
template:
  metadata:
    labels:
      {{- include "segue.selector" (dict "root" $root "component" .name) | nindent 6 }}
    {{- with .of.annotations }}
    annotations: {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    {{- if $root.Values.autoscaling.enabled }}
    restartPolicy: Never
    {{- end }}
    serviceAccountName: {{ include "segue.serviceAccount" $root }}
    automountServiceAccountToken: false
    # The drain, then Ray's own shutdown.
    terminationGracePeriodSeconds: {{ add $root.Values.drainSeconds 45 }}
    securityContext: {{- include "segue.podSecurity" $root | nindent 6 }}
    {{- with $root.Values.image.pullSecrets }}
    imagePullSecrets: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- include "segue.placement" . | nindent 4 }}
    affinity:
      podAffinity:
        {{- $term := include "segue.nearWorkers" $root }}
        {{- if $root.Values.topology.required }}
        requiredDuringSchedulingIgnoredDuringExecution:
          - {{- $term | nindent 12 }}
        {{- else }}
        preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            podAffinityTerm: {{- $term | nindent 14 }}
        {{- end }}
    containers:
      - name: ray-worker
        image: {{ include "segue.image" $root }}
        imagePullPolicy: {{ $root.Values.image.pullPolicy }}
        securityContext:
          allowPrivilegeEscalation: false
          capabilities:
            drop: [ALL]
            {{- if $isRdma }}
            # RDMA needs locked memory.
            add: [IPC_LOCK]
            {{- end }}
        env:
          {{- include "segue.rayEnv" $root | nindent 10 }}
          {{- include "segue.modelEnv" $root | nindent 10 }}
          {{- include "segue.tracesEnv" $root | nindent 10 }}
          {{- include "segue.clientEnv" $root | nindent 10 }}
          # OpenMP threads spin only briefly, as with a Ray that `segue serve` starts.
          - {name: GOMP_SPINCOUNT, value: "20000"}
          - name: OMP_NUM_THREADS
            valueFrom: {resourceFieldRef: {resource: limits.cpu}}
          - name: POD_IP
            valueFrom: {fieldRef: {fieldPath: status.podIP}}
        {{- $resources := deepCopy .of.resources }}
        {{- if .of.gpus }}
        {{- $_ := set $resources "limits" (merge (dict "nvidia.com/gpu" .of.gpus) ($resources.limits | default dict)) }}
        {{- end }}
        {{- if $isRdma }}
        {{- $rdma := $root.Values.transfer.rdma }}
        {{- $_ := set $resources "limits" (merge (dict $rdma.resource $rdma.count) ($resources.limits | default dict)) }}
        {{- end }}
        resources: {{- toYaml $resources | nindent 10 }}
        ports:
          {{- if contains "prefill" .resources }}
          - {name: prefill, containerPort: 7420}
          - {name: prefill-metrics, containerPort: 7421}
          {{- end }}
          {{- if contains "decode" .resources }}
          - {name: decode, containerPort: 7430}
          - {name: decode-metrics, containerPort: 7431}
          {{- end }}
        # The pod lives as long as its Ray node, in which Ray itself restarts a worker. The raylet answers gRPC
        # health checks without a token. The pod is ready once the worker has loaded its model.
        startupProbe:
          grpc: {port: 6380}
          periodSeconds: 5
          timeoutSeconds: 5
          failureThreshold: 60
        livenessProbe:
          grpc: {port: 6380}
          periodSeconds: 10
          timeoutSeconds: 5
          failureThreshold: 6
        readinessProbe:
          {{- if gt $nodes 1 }}
          # Only the first of a worker's pods serves `/readyz`.
          grpc: {port: 6380}
          {{- else }}
          {{- include "segue.httpProbe" (dict "root" $root "path" "/readyz" "port" .port) | nindent 10 }}
          {{- end }}
          periodSeconds: 5
          timeoutSeconds: 3
        lifecycle:
          preStop:
            exec:
              command:
                - segue
                - drain
                - --host
                - $(POD_IP)
                - --target
                - {{ include "segue.target" $root }}
                - --timeout
                - {{ $root.Values.drainSeconds | quote }}
                # The pod stops in any case.
                - --may-interrupt
        volumeMounts:
          - {name: shm, mountPath: /dev/shm}
          - {name: ray, mountPath: /tmp}
          {{- include "segue.modelMounts" $root | nindent 10 }}
          {{- include "segue.tlsMounts" $root | nindent 10 }}
    volumes:
      - name: shm
        emptyDir: {medium: Memory, sizeLimit: {{ $root.Values.shmSize }}}
      - name: ray
        emptyDir: {}
      {{- include "segue.modelVolumes" $root | nindent 6 }}
      {{- include "segue.tlsVolumes" $root | nindent 6 }}
{{- end -}}

{{- define "segue.nearWorkers" -}}
topologyKey: {{ .Values.topology.key }}
labelSelector:
  matchLabels:
    app.kubernetes.io/name: segue
    app.kubernetes.io/instance: {{ .Release.Name }}
  matchExpressions:
    - {key: app.kubernetes.io/component, operator: In, values: [prefill, decode, shared]}
{{- end -}}
