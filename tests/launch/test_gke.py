"""gke.sh: the JobSet that it renders, and what it asks of kubectl."""

import kubernetes_validate
import pytest
import yaml
from launching import HARD, TRAIN, command, launch, recorder, words

OPTIONS = ["--name", "my-run", "--image", "registry/marble:1", "--accelerator", "tpu-v5-lite-podslice"]


def render(folder, *options, topology="4x8", command_line=TRAIN):
    done = launch(folder, "gke.sh", "render", *OPTIONS, "--topology", topology, *options, "--", *command_line)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def job(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def test_the_job_in_the_jobset_is_valid_kubernetes(tmp_path):
    jobset = render(tmp_path, "--spot", "--namespace", "team", "--service_account", "writer")
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert (jobset["metadata"]["name"], jobset["metadata"]["namespace"]) == ("my-run", "team")
    manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}, "spec": job(jobset)}
    kubernetes_validate.validate(manifest, "1.31", strict=True)
    manifest["spec"]["completions"] = "eight"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, "1.31", strict=True)


def test_every_word_comes_through_as_it_is(tmp_path):
    hard = [*TRAIN, '--config.a="{x: $name}"', "#", "- é\n\t✓", "$(HOSTNAME)"]
    (container,) = job(render(tmp_path, command_line=hard))["template"]["spec"]["containers"]
    # Kubernetes makes $( of $$(.
    assert [word.replace("$$(", "$(") for word in container["command"]] == hard
    (cache,) = container["env"]
    assert cache["name"] == "JAX_COMPILATION_CACHE_DIR" and cache["value"].replace("$$(", "$(") == f"{HARD}/xla_cache"


@pytest.mark.parametrize(
    ("topology", "chips", "hosts"), [("4x8", 4, 8), ("2x4", 8, 1), ("2x2x2", 4, 2), ("16x16", 4, 64)]
)
def test_a_pod_for_each_host(tmp_path, topology, chips, hosts):
    spec = job(render(tmp_path, "--chips_per_host", chips, topology=topology))
    assert spec["completions"] == spec["parallelism"] == hosts and spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": topology,
    }


def test_a_fault_fails_the_jobset_and_anything_else_restarts_it(tmp_path):
    jobset = render(tmp_path, "--max_restarts", 7, "--spot")
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    spec = job(jobset)
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [1, 2]
    assert spec["backoffLimit"] == 0 and spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-spot"] == "true"


def test_apply_sends_what_render_prints(tmp_path):
    recorder(tmp_path, "kubectl", "cat > sent")
    done = launch(tmp_path, "gke.sh", "apply", *OPTIONS, "--topology=4x8", "--", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert words(tmp_path, "kubectl") == [["apply", "-f", "-"]]
    assert yaml.safe_load((tmp_path / "sent").read_text()) == render(tmp_path)


def test_the_other_actions(tmp_path):
    recorder(tmp_path, "kubectl")
    for action in (["logs", "--worker", "3", "--follow"], ["status"], ["stop"], ["delete"]):
        assert launch(tmp_path, "gke.sh", *action, "--name", "n", "--namespace", "team").returncode == 0
    logs, jobset, pods, stop, delete = words(tmp_path, "kubectl")
    assert logs[:3] == ["logs", "--namespace=team", "--follow"]
    assert "--selector=jobset.sigs.k8s.io/jobset-name=n,batch.kubernetes.io/job-completion-index=3" in logs
    assert jobset == ["get", "jobset", "n", "--namespace=team"] and pods[:2] == ["get", "pods"]
    assert stop[:3] == ["patch", "jobset", "n"] and stop[-1] == '--patch={"spec":{"suspend":true}}'
    assert delete == ["delete", "jobset", "n", "--namespace=team"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topology", "4by8"], "--topology '4by8' is not of the form 4x8"),
        (["--topology", "2x3"], "--topology 2x3 is not made of hosts of --chips_per_host 4"),
        (["--topology", "4x8", "--max_restarts", "-1"], "--max_restarts '-1' is not a whole number"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, options, message):
    command(tmp_path, "kubectl", "touch sent")
    done = launch(tmp_path, "gke.sh", "apply", *OPTIONS, *options, "--", *TRAIN)
    assert done.returncode != 0 and message in done.stderr and not (tmp_path / "sent").exists()


def test_a_workdir_on_the_pods_own_disk_is_refused(tmp_path):
    done = launch(tmp_path, "gke.sh", "apply", *OPTIONS, "--topology=4x8", "--", "marble", "train", "--workdir", "/r")
    assert done.returncode == 2 and "--workdir '/r' would go with the machines: give a bucket" in done.stderr
