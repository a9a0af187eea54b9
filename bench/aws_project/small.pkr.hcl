# The work of recipes/small as Packer's users do it: one upload, one script.

variable "endpoint" { type = string }
variable "region" { type = string }
variable "name" { type = string }
variable "ssh_username" { type = string }
variable "script" { type = string }

source "amazon-ebs" "small" {
  ami_name      = var.name
  instance_type = "t3.small"
  region        = var.region
  ssh_username  = var.ssh_username
  source_ami_filter {
    filters     = { name = "debian-13-amd64-*", architecture = "x86_64" }
    owners      = ["136693071363"]
    most_recent = true
  }
  # These lead to the lab, and take no call that a user's own template would make.
  custom_endpoint_ec2         = var.endpoint
  access_key                  = "AKIALAB00000000000001"
  secret_key                  = "lab"
  skip_region_validation      = true
  skip_credential_validation  = true
  skip_metadata_api_check     = true
}

build {
  sources = ["source.amazon-ebs.small"]
  provisioner "file" {
    source      = "files"
    destination = "/tmp"
  }
  provisioner "shell" {
    execute_command = "sudo sh {{ .Path }}"
    script          = var.script
  }
}
